"""Reading P-Tuning v2 prefixes, ours and the original trainer's, and saying why one does not fit.

A directory holds the prefix encoder's tensors under the names that the original trainer gave them, alone
or among all the weights of a model. `adapter_files` adds a file that says what they fit to; without it
all settings are read off the shapes.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from glm_core.errors import AdapterError, CheckpointError

from ..checkpoints.reader import Checkpoint
from ..families.registry import Family, family_of
from ..network.language_model import Dimensions
from ..network.prefix_encoder import PrefixEncoder
from .files import CONFIG_FILE, AdapterConfig, BaseModel, read_adapter_config

PREFIX_NAMES = ("transformer.prefix_encoder.", "prefix_encoder.", "")
# What original and other tools call the sizes of a model, in a config.json beside the weights.
PUBLISHED_SIZES = ("num_layers", "num_attention_heads", "hidden_size", "multi_query_group_num", "kv_channels")

_CHECKPOINT_NAME = re.compile(r"checkpoint-(\d+)")
_log = logging.getLogger("glm")


def load_prefix_encoder(
    directory: Path, family: Family, config: Any, base: BaseModel | None = None
) -> PrefixEncoder:
    """The prefix encoder of an adapter directory, in float32 on the CPU.

    Args:
        directory: of an adapter, of a checkpoint in full, or of a training job (its newest checkpoint).
        family: of the model that it shall serve.
        config: of that model.
        base: what that model is; if the adapter was trained on other weights, a warning says so.

    Raises:
        AdapterError: the directory is missing or damaged, or the adapter is of another model.
    """
    directory = find_adapter(directory)
    stated = read_adapter_config(directory)
    if stated is not None:
        _check_sizes(directory, stated, family, family.dimensions(config))
    encoder = prefix_encoder_in(open_adapter(directory), family, config, stated)
    if encoder is None:
        raise _no_prefix(directory)
    if stated is not None and base is not None:
        _compare_bases(directory, stated.base, base)
    return encoder


def find_adapter(directory: Path) -> Path:
    """The directory itself if it holds weights, else its newest ``checkpoint-N`` that does, with a notice.

    Raises:
        AdapterError: there is no such directory.
    """
    if not directory.is_dir():
        raise AdapterError(f"adapter directory {directory} does not exist; pass --adapter NAME=DIRECTORY")
    if _holds_weights(directory):
        return directory
    steps = {
        int(match[1]): path
        for path in directory.iterdir()
        if (match := _CHECKPOINT_NAME.fullmatch(path.name)) and path.is_dir() and _holds_weights(path)
    }
    if not steps:
        return directory  # whoever opens it says what is missing
    newest = steps[max(steps)]
    _log.warning(
        "glm: adapter %s holds no weights itself; taking its newest checkpoint, %s", directory, newest.name
    )
    return newest


def open_adapter(directory: Path) -> Checkpoint:
    """The tensors of an adapter directory.

    Raises:
        AdapterError: a file is missing, damaged, or no file of tensors.
    """
    if (directory / "adapter_model.safetensors").is_file() and not _holds_weights(directory):
        raise AdapterError(
            f"{directory} is an adapter of PEFT, which this runtime does not read; "
            "pass the directory that P-Tuning v2 training wrote"
        )
    try:
        return Checkpoint(directory)
    except CheckpointError as error:
        raise AdapterError(f"adapter: {error}") from error


def require_length(directory: Path, pre_seq_len: int) -> None:
    """Refuse an adapter that has another length than its user says; nothing but its shape is read.

    Raises:
        AdapterError: naming both, or what is wrong with the files.
    """
    checkpoint = open_adapter(directory)
    start = _start_of_names(checkpoint)
    if start is None:
        raise _no_prefix(directory)
    found = checkpoint.facts(f"{start}embedding.weight").shape[0]
    if found != pre_seq_len:
        raise AdapterError(
            f"{directory} was trained with pre_seq_len {found}, but pre_seq_len {pre_seq_len} is asked for; "
            f"pass pre_seq_len={found}"
        )


def prefix_encoder_in(
    checkpoint: Checkpoint, family: Family, config: Any, stated: AdapterConfig | None = None
) -> PrefixEncoder | None:
    """The prefix encoder stored in a checkpoint, or ``None`` if it has none.

    Args:
        checkpoint: an adapter, or a model that has a prefix encoder among its weights.
        family: of the model that it shall serve.
        config: of that model.
        stated: what the adapter's own file says, to be held against the weights.

    Raises:
        AdapterError: it is incomplete, of another model, or not finite.
    """
    start = _start_of_names(checkpoint)
    if start is None:
        return None
    pre_seq_len, projection = _settings_in(checkpoint, start, stated)
    encoder = family.build_prefix_encoder(config, pre_seq_len, projection)
    return _filled(encoder, checkpoint, start, f"this {family.name} model")


def read_adapter(directory: Path) -> tuple[AdapterConfig, PrefixEncoder]:
    """An adapter without the model that it belongs to.

    Args:
        directory: as for `load_prefix_encoder`; one without our file needs a ``config.json`` of its model.

    Raises:
        AdapterError: it is missing or damaged, or nothing says the sizes of its model.
    """
    directory = find_adapter(directory)
    stated = read_adapter_config(directory)
    checkpoint = open_adapter(directory)
    start = _start_of_names(checkpoint)
    if start is None:
        raise _no_prefix(directory)
    pre_seq_len, projection = _settings_in(checkpoint, start, stated)
    config = stated or _config_beside(directory, pre_seq_len, projection)
    inner = None
    if projection:
        first = f"{start}trans.0.weight"
        width = checkpoint.facts(f"{start}embedding.weight").shape[1]
        inner = (width, checkpoint.facts(first).shape[0] if first in checkpoint else width)
    encoder = PrefixEncoder(pre_seq_len, config.num_layers, config.num_kv_heads, config.head_dim, inner)
    return config, _filled(encoder, checkpoint, start, f"its {config.family} model")


def _settings_in(checkpoint: Checkpoint, start: str, stated: AdapterConfig | None) -> tuple[int, bool]:
    """``pre_seq_len`` and ``prefix_projection`` as the weights show them, the same as stated."""
    projection = any(name.startswith(f"{start}trans.") for name in checkpoint)
    shape = checkpoint.facts(f"{start}embedding.weight").shape
    if len(shape) != 2 or not shape[0]:
        raise AdapterError(
            f"{checkpoint.directory}: {start}embedding.weight has shape {list(shape)}, a row for each of "
            "the prefix's positions is expected; the adapter is damaged, copy it again"
        )
    if stated is not None:
        for name, said, found in (
            ("pre_seq_len", stated.pre_seq_len, shape[0]),
            ("prefix_projection", stated.prefix_projection, projection),
        ):
            if said != found:
                raise AdapterError(
                    f"{checkpoint.directory}: {CONFIG_FILE} says {name} {said}, the weights have {found}; "
                    "the files are of different adapters"
                )
    return shape[0], projection


def _filled(encoder: PrefixEncoder, checkpoint: Checkpoint, start: str, model: str) -> PrefixEncoder:
    """The encoder with the stored weights, each checked for its shape and its values."""
    state: dict[str, Tensor] = {}
    for name, parameter in encoder.state_dict().items():
        stored = f"{start}{name}"
        if stored not in checkpoint:
            raise AdapterError(
                f"{checkpoint.directory}: tensor {stored} is missing; the adapter is incomplete, "
                "copy it again"
            )
        found = checkpoint.facts(stored).shape
        if found != tuple(parameter.shape):
            raise AdapterError(
                f"{checkpoint.directory}: {name} has shape {list(found)}, {model} needs "
                f"{list(parameter.shape)}{_why(checkpoint.directory, encoder)}; "
                "the adapter was trained on another model"
            )
        state[name] = checkpoint.read(stored, dtype=torch.float32, device=torch.device("cpu"))
        if not bool(torch.isfinite(state[name]).all()):
            raise AdapterError(
                f"{checkpoint.directory}: {stored} holds values that are not finite; its training diverged. "
                "Use an earlier checkpoint"
            )
    encoder.load_state_dict(state)
    return encoder.eval().requires_grad_(False)


def _config_beside(directory: Path, pre_seq_len: int, projection: bool) -> AdapterConfig:
    """The sizes that a ``config.json`` beside an original adapter's weights says."""
    content = _published_config(directory)
    family = family_of(content)
    try:
        if family is None:
            raise KeyError("model_type")
        sizes = family.dimensions(family.read_config({**content, "pre_seq_len": None}))
    except (KeyError, TypeError, ValueError) as error:
        raise AdapterError(
            f"{directory} has neither {CONFIG_FILE} nor a config.json with its model's sizes; "
            "put the base model's config.json beside the weights"
        ) from error
    return AdapterConfig(
        family=family.name,
        pre_seq_len=pre_seq_len,
        prefix_projection=projection,
        num_layers=sizes.num_layers,
        num_kv_heads=sizes.num_kv_heads,
        head_dim=sizes.head_dim,
        base=BaseModel(str(content.get("_name_or_path", ""))),
    )


def _holds_weights(directory: Path) -> bool:
    return any(
        (directory / f"{name}{end}").is_file()
        for name in ("model.safetensors", "pytorch_model.bin")
        for end in ("", ".index.json")
    )


def _check_sizes(directory: Path, stated: AdapterConfig, family: Family, sizes: Dimensions) -> None:
    for name, said, needed in (
        ("family", stated.family, family.name),
        ("num_layers", stated.num_layers, sizes.num_layers),
        ("num_kv_heads", stated.num_kv_heads, sizes.num_kv_heads),
        ("head_dim", stated.head_dim, sizes.head_dim),
    ):
        if said != needed:
            trained_on = f" ({stated.base.name})" if stated.base.name else ""
            raise AdapterError(
                f"{directory}: the adapter was trained on another model{trained_on}: "
                f"its {name} is {said}, that of this one is {needed}"
            )


def _compare_bases(directory: Path, trained_on: BaseModel, base: BaseModel) -> None:
    if trained_on.fingerprint and base.fingerprint and trained_on.fingerprint != base.fingerprint:
        _log.warning(
            "glm: adapter %s was trained on %s, whose weights are not those of %s; its answers may be poor",
            directory,
            trained_on.name or "a model without a name",
            base.name,
        )


def _why(directory: Path, encoder: PrefixEncoder) -> str:
    """Which sizes make the shape, and what a ``config.json`` beside the weights says of them."""
    needed = (
        f"num_layers {encoder.num_layers}, num_kv_heads {encoder.num_kv_heads}, head_dim {encoder.head_dim}"
    )
    content = _published_config(directory)
    listed = ", ".join(f"{name} {content[name]}" for name in PUBLISHED_SIZES if name in content)
    return f" ({needed}; its config.json says {listed})" if listed else f" ({needed})"


def _published_config(directory: Path) -> dict[str, Any]:
    try:
        content: Any = json.loads((directory / "config.json").read_text("utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def _no_prefix(directory: Path) -> AdapterError:
    return AdapterError(
        f"{directory} holds no prefix encoder (no tensor transformer.prefix_encoder.embedding.weight); "
        "pass the directory that P-Tuning v2 training wrote"
    )


def _start_of_names(names: Iterable[str]) -> str | None:
    known = set(names)
    return next((start for start in PREFIX_NAMES if f"{start}embedding.weight" in known), None)
