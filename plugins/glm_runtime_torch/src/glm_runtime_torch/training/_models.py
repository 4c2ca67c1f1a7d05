"""Preparing a model for training, and what a trainer asks of it."""

from __future__ import annotations

from pathlib import Path

import torch
from glm_hub.model_files import CONFIG
from torch import Tensor

from glm_core import ChatRequest
from glm_core.errors import ConfigError
from glm_core.records import QuantizationScheme

from ..checkpoints.json_file import read_json
from ..model.directory import recognize_family
from ..model.torch_model import TorchModel
from ..network.parameters import list_unique_parameters
from ..tokenizers.training_rows import TrainingTokenizer


def as_torch_model(model: object) -> TorchModel | None:
    """Return a model that core handed over if it is one of this runtime, or ``None``: decline it then."""
    return model if isinstance(model, TorchModel) else None


def prepare_frozen(model: TorchModel, device: torch.device, scheme: QuantizationScheme | None) -> None:
    """Quantise a model if asked for, read its weights to a device, and freeze them.

    Args:
        model: changed in place.
        device: where it trains.
        scheme: of the blocks' linear layers; ``None``, or a model that is quantised already, changes nothing.

    Raises:
        ConfigError: the scheme does not suit the model.
    """
    if scheme is not None and not model.is_quantized:
        model.quantize(scheme)
    model.materialize(device)
    model.network.requires_grad_(False)


def prepare_trainable(model: TorchModel, device: torch.device) -> list[tuple[str, Tensor]]:
    """Read all weights of a model to a device and return them, ready to be trained.

    Args:
        model: changed in place; set ``model.dtype`` to float32 before, because weights that move are too
            coarse in half precision.
        device: where it trains.

    Returns:
        Every parameter once, by the name that checkpoints give it; a tied head is the embedding.

    Raises:
        ConfigError: the model is quantised, or has no directory to take its other files from.
    """
    if model.is_quantized:
        raise ConfigError(
            "all weights are to be trained, which quantised ones cannot be; train a prefix, or pass a model "
            "that is not quantised"
        )
    if model.directory is None:
        raise ConfigError("a model in memory cannot be trained in full; pass its directory")
    model.materialize(device)
    parameters = list_unique_parameters(model.network)
    for _, parameter in parameters:
        parameter.requires_grad_(True)
    return parameters


def get_training_tokenizer(model: TorchModel) -> TrainingTokenizer:
    """Return the model's tokenizer, which lays out rows as the family's original trainer does.

    Raises:
        ConfigError: the family has no such layout.
    """
    tokenizer = model.tokenizer
    if not isinstance(tokenizer, TrainingTokenizer):
        raise ConfigError(f"models of the family {model.family.name} cannot be trained")
    return tokenizer


def check_request(model: TorchModel, request: ChatRequest) -> None:
    """Refuse a request that a placed model could not answer, without running it.

    Raises:
        RequestError: saying why, such as a prompt that leaves no room for an answer.
    """
    model.engine.prepare(request)


def get_adapter_key(model: TorchModel, name: str | None) -> str | None:
    """Return the content key of a loaded adapter, or ``None`` for the base model.

    Two adapters with the same key give the same answers, whatever they and their directories are called.

    Args:
        model: placed.
        name: of the adapter; ``None`` = the base model.
    """
    adapter = model.engine.adapters.get(name)
    return None if adapter is None else adapter.content_key


def recognize_family_name(directory: Path) -> str | None:
    """Return the name of a model directory's family, or ``None`` if this runtime does not know it."""
    family = recognize_family(directory)
    return None if family is None else family.name


def read_stored_bits(directory: Path) -> int:
    """Return to how many bits the weights of a model's directory are quantised already; 0 = not at all.

    Raises:
        CheckpointError: its configuration cannot be read.
    """
    return int(read_json(directory / CONFIG).get("quantization_bit") or 0)
