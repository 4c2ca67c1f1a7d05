"""Opening a checkpoint directory: every file and shape is checked, and no weight is read yet."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from glm_hub.model_files import CONFIG, GENERATION_CONFIG

from glm_core import CheckpointError, Sampling
from glm_core.records import ModelSource

from ..adapters.files import BaseModel
from ..adapters.fingerprint import fingerprint_checkpoint
from ..adapters.loading import load_adapter, load_built_in_adapter
from ..checkpoints.generation_file import SamplingFile
from ..checkpoints.integrity import has_file
from ..checkpoints.json_file import read_json
from ..checkpoints.reader import Checkpoint
from ..checkpoints.record_file import read_record
from ..checkpoints.requirements import require_parameters
from ..checkpoints.scaled_weights import open_model_weights
from ..families.registry import Family, find_family
from ..network.empty_weights import build_without_weights
from ..network.language_model import LanguageModel
from ..network.parameters import count_parameters, list_aliases, list_unique_parameters
from ..quantization import expect_stored_form
from ..tokenizers import ChatTokenizer
from .torch_model import TorchModel


def recognize_family(directory: Path, wanted: str = "auto") -> Family | None:
    """Return the family of a checkpoint directory, from its small files; ``None`` if it is not ours.

    Args:
        directory: holds ``config.json``.
        wanted: the family that the user names; ``auto`` = whichever it is.

    Raises:
        CheckpointError: ``config.json`` is damaged.
        ConfigError: it cannot be of the wanted family.
    """
    config = read_json(directory / CONFIG) if has_file(directory / CONFIG) else None
    return None if config is None else find_family(config, directory, wanted)


def open_directory(source: ModelSource, directory: Path, family: Family, dtype: torch.dtype) -> TorchModel:
    """Read configuration and tokenizer, check every file and shape; read no weights yet.

    Raises:
        CheckpointError: something is missing, damaged, unsafe or does not fit.
        AdapterError: an adapter does not fit the model.
    """
    raw = read_json(directory / CONFIG)
    config = read_config(directory, raw, family)
    tokenizer = family.read_tokenizer(directory)
    checkpoint = open_model_weights(directory, raw)
    network = build_network(family, config, checkpoint)
    _check_vocabulary(directory, tokenizer, network)
    with build_without_weights():
        num_parameters = count_parameters(network)
        _expect_stored_form(directory, raw, network)
    checkpoint.rename_tied(list_aliases(network))
    require_parameters(checkpoint, dict(list_unique_parameters(network)))
    base = BaseModel(source.name, fingerprint_checkpoint(checkpoint)) if source.adapters else None
    adapters = {name: load_adapter(path, family, config, base) for name, path in source.adapters.items()}
    return TorchModel(
        source.name,
        family,
        config,
        network,
        tokenizer,
        dtype,
        checkpoint=checkpoint,
        adapters=adapters,
        base_adapter=load_built_in_adapter(checkpoint, family, config),
        sampling=_read_sampling_defaults(directory, family.sampling),
        num_parameters=num_parameters,
    )


def _read_sampling_defaults(directory: Path, family: Sampling) -> Sampling:
    """Return the family's defaults, with what the checkpoint's ``generation_config.json`` says on top."""
    path = directory / GENERATION_CONFIG
    if not has_file(path):
        return family
    return Sampling(**read_record(path, SamplingFile).model_dump()).complete_with(family)


def read_config(directory: Path, raw: Mapping[str, Any], family: Family) -> Any:
    """Return the family's configuration of a ``config.json``, without a prefix.

    Raises:
        CheckpointError: it does not describe a possible network.
    """
    try:
        return family.read_config({**raw, "pre_seq_len": None})
    except (KeyError, TypeError, ValueError) as error:
        reason = f"{error.args[0]!r} is missing" if isinstance(error, KeyError) else error
        raise CheckpointError(
            f"{directory / CONFIG} does not describe a {family.name} model: {reason}; "
            "correct it, or download it again."
        ) from error


def _expect_stored_form(directory: Path, raw: Mapping[str, Any], network: LanguageModel) -> None:
    try:
        expect_stored_form(network, raw)
    except ValueError as error:
        raise CheckpointError(f"{directory / 'config.json'}: {error}") from error


def build_network(family: Family, config: Any, checkpoint: Checkpoint) -> LanguageModel:
    """Return the network of a configuration without weights, once its files are known to be as large.

    Raises:
        CheckpointError: the weight files cannot hold such a network, or there is none.
    """
    needed = family.count_tensors(config)
    if needed > len(checkpoint):
        # Before it is built: a configuration of a thousand layers is written in a moment.
        blocks = family.read_dimensions(config).num_layers
        raise CheckpointError(
            f"{checkpoint.directory}: config.json describes {blocks:,} blocks of at least {needed:,} "
            f"tensors, the weight files hold {len(checkpoint):,}; the checkpoint is incomplete or of another "
            "model. Download it again."
        )
    try:
        with build_without_weights():
            return family.build(config)
    except Exception as error:  # libraries' networks refuse a configuration with any error
        raise CheckpointError(
            f"{checkpoint.directory / CONFIG} describes no network that can be built: {error}; "
            "download it again."
        ) from error


def _check_vocabulary(directory: Path, tokenizer: ChatTokenizer, network: LanguageModel) -> None:
    sizes = network.dimensions
    if tokenizer.vocab_size > sizes.vocab_size:
        found = f"has {tokenizer.vocab_size} pieces, the model's embedding only {sizes.vocab_size} rows"
    elif sizes.eos_token_id not in tokenizer.stop_token_ids:
        ends = ", ".join(map(str, sorted(tokenizer.stop_token_ids)))
        found = f"ends answers with token {ends}, config.json with {sizes.eos_token_id}"
    else:
        try:
            prompt = tokenizer.encode_completion("")
            if prompt:
                network.find_layout(prompt)
            return
        except ValueError as error:  # config.json has other ids for the control tokens
            found = f"and config.json disagree about control tokens: {error}"
    raise CheckpointError(
        f"{directory}: the vocabulary {found}; they are of different models. "
        "Take the vocabulary that was published with these weights."
    )
