"""The two things that can be trained, with their files: a prefix over a frozen model, or the model itself."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import torch
from glm_runtime_torch.training import (
    BaseModel,
    PrefixEncoder,
    TorchModel,
    load_prefix,
    make_prefix_encoder,
    open_adapter,
    prepare_frozen,
    prepare_trainable,
    read_parameters,
    save_adapter,
    write_model,
)
from torch import Tensor

from glm_core.config import expand
from glm_core.errors import ConfigError
from glm_core.records import QuantizationScheme

from ._settings import TrainingSettings


class Trainable(Protocol):
    """What the training loop needs of whatever it trains."""

    @property
    def encoder(self) -> PrefixEncoder | None:
        """Return the encoder of the prefix before every layer's keys and values; ``None`` = there is none."""
        ...

    def list_parameters(self) -> Iterable[tuple[str, Tensor]]:
        """Return the parameters that the optimiser changes, always in the same order."""
        ...

    def write(self, directory: Path) -> None:
        """Write it so that the runtime can load it."""
        ...

    def read(self, directory: Path) -> None:
        """Restore the values that `write` wrote."""
        ...


class TrainedPrefix:
    """A prefix encoder in float32; the model in front of which it stands is frozen.

    Args:
        model: the frozen model.
        encoder: on the device of the model.
        base: what the adapter's file says of the model.
        training: what it says of the training.
    """

    def __init__(
        self, model: TorchModel, encoder: PrefixEncoder, base: BaseModel, training: Mapping[str, Any]
    ) -> None:
        self._model = model
        self._encoder = encoder.train().requires_grad_(True)
        self._base = base
        self._training = training

    @property
    def encoder(self) -> PrefixEncoder:
        """Implement `Trainable.encoder`."""
        return self._encoder

    def list_parameters(self) -> Iterable[tuple[str, Tensor]]:
        """Implement `Trainable.list_parameters`."""
        return list(self._encoder.named_parameters())

    def write(self, directory: Path) -> None:
        """Write an adapter's files; see `glm_runtime_torch.training.save_adapter`."""
        family = self._model.family.name
        save_adapter(directory, self._encoder, family=family, base=self._base, training=self._training)

    def read(self, directory: Path) -> None:
        """Implement `Trainable.read`."""
        stored = load_prefix(self._model, directory)
        self._encoder.load_state_dict(stored.state_dict())


class TrainedModel:
    """All weights of a model, in float32.

    Args:
        parameters: in memory, and wanting gradients.
        directory: where the model was loaded from; configuration and vocabulary are copied from there.
        family: what it was taken for.
    """

    encoder = None

    def __init__(self, parameters: Sequence[tuple[str, Tensor]], directory: Path, family: str) -> None:
        self._parameters = list(parameters)
        self._directory = directory
        self._family = family

    def list_parameters(self) -> Iterable[tuple[str, Tensor]]:
        """Implement `Trainable.list_parameters`."""
        return self._parameters

    def write(self, directory: Path) -> None:
        """Write a model's directory, which loads by itself."""
        write_model(directory, self._parameters, self._directory, self._family)

    def read(self, directory: Path) -> None:
        """Implement `Trainable.read`."""
        read_parameters(directory, self._parameters)


def prepare(
    model: TorchModel, settings: TrainingSettings, device: torch.device, scheme: QuantizationScheme | None
) -> Trainable:
    """Read a model into memory, quantised if asked for, and return what is trained.

    Raises:
        AdapterError: ``ptuning_checkpoint`` does not fit the model or the settings.
        ConfigError: the model cannot be trained so.
    """
    if settings.pre_seq_len is None:
        return _prepare_whole_model(model, device, scheme)
    base = model.base
    encoder = _make_encoder(model, settings, base)
    prepare_frozen(model, device, scheme)
    training = {
        name: getattr(settings, name)
        for name in (
            *("max_source_length", "max_target_length", "learning_rate", "seed", "prompt_column"),
            *("response_column", "history_column", "source_prefix", "prefix_dropout"),
        )
    }
    training["dtype"] = str(model.dtype).removeprefix("torch.")
    training["quantization"] = "none" if scheme is None else str(scheme)
    return TrainedPrefix(model, encoder.to(device), base, training)


def prepare_evaluation(
    model: TorchModel, settings: TrainingSettings, device: torch.device, scheme: QuantizationScheme | None
) -> PrefixEncoder | None:
    """Read a model into memory, quantised if asked for, and return the prefix of ``ptuning_checkpoint``.

    Raises:
        AdapterError: it does not fit the model or the settings.
    """
    encoder = None
    if settings.ptuning_checkpoint is not None:
        encoder = _load_trained_encoder(model, settings, settings.ptuning_checkpoint, model.base).to(device)
    prepare_frozen(model, device, scheme)
    return encoder


def _prepare_whole_model(
    model: TorchModel, device: torch.device, scheme: QuantizationScheme | None
) -> Trainable:
    if scheme is not None or model.is_quantized:
        raise ConfigError(
            "without pre_seq_len all weights are trained, which quantised ones cannot be; pass pre_seq_len, "
            "such as 128, or a model that is not quantised"
        )
    parameters = prepare_trainable(model, device)
    assert model.directory is not None  # checked there
    return TrainedModel(parameters, model.directory, model.family.name)


def _make_encoder(model: TorchModel, settings: TrainingSettings, base: BaseModel) -> PrefixEncoder:
    """Return the prefix of ``ptuning_checkpoint``, or a new one that follows from the seed."""
    assert settings.pre_seq_len is not None
    limit = model.info.context_length
    if settings.pre_seq_len > limit:  # before the memory for it is taken
        raise ConfigError(
            f"pre_seq_len {settings.pre_seq_len:,} is more than the {limit:,} tokens that {model.info.name} "
            "takes; 128 is usual"
        )
    if settings.ptuning_checkpoint is None:
        return make_prefix_encoder(
            model,
            settings.pre_seq_len,
            prefix_projection=settings.prefix_projection,
            seed=settings.seed,
        )
    return _load_trained_encoder(model, settings, settings.ptuning_checkpoint, base)


def _load_trained_encoder(
    model: TorchModel, settings: TrainingSettings, checkpoint: str, base: BaseModel
) -> PrefixEncoder:
    adapter = open_adapter(expand(checkpoint))
    encoder = load_prefix(model, adapter, base)
    adapter.require(pre_seq_len=settings.pre_seq_len, prefix_projection=settings.prefix_projection)
    return encoder
