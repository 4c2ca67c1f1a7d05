"""Looking at an adapter's directory, once: where the adapter is, what kind it is, and what its files say.

A directory holds the prefix encoder's tensors under the names that the original trainer gave them, alone or
among all the weights of a model. Our own trainer adds ``glm_adapter.json``; without it all settings are read
off the shapes. Everybody who takes an adapter starts with `open_adapter` and works on the record it returns,
so that no rule is checked twice or in two ways.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from glm_hub.model_files import CONFIG, weight_form_of
from torch import Tensor

from glm_core.errors import AdapterError, CheckpointError

from ..checkpoints.reader import Checkpoint
from ..network.prefix_encoder import PrefixEncoder
from .files import CONFIG_FILE, AdapterConfig, read_adapter_config

PEFT_WEIGHTS = "adapter_model.safetensors"
# In front of the encoder's own names: in a whole model, without its outermost module, and bare.
NAME_STARTS = ("transformer.prefix_encoder.", "prefix_encoder.", "")
# How the original and other tools call the sizes of a model, in a config.json beside the weights.
PUBLISHED_SIZES = ("num_layers", "num_attention_heads", "hidden_size", "multi_query_group_num", "kv_channels")

_CHECKPOINT_NAME = re.compile(r"checkpoint-(\d+)")
_log = logging.getLogger("glm")


@dataclass(frozen=True)
class PrefixTensors:
    """The tensors of a prefix encoder in a checkpoint: where they are and their shapes; no value is read yet.

    Attributes:
        checkpoint: an adapter's, or that of a model that has a prefix among its weights.
        start: stands in front of the encoder's own parameter names.
        pre_seq_len: positions of the prefix.
        prefix_projection: whether a two-layer network makes the keys and values.
        row_size: elements of an embedding row.
        inner_size: width inside the two-layer network; ``row_size`` where there is none.
    """

    checkpoint: Checkpoint
    start: str
    pre_seq_len: int
    prefix_projection: bool
    row_size: int
    inner_size: int

    def read_into(self, encoder: PrefixEncoder, model: str, explanation: str = "") -> PrefixEncoder:
        """Fill an encoder with the stored weights, each checked for its shape and its values.

        Args:
            encoder: of the model's sizes; changed in place.
            model: what the encoder was built for, such as "this chatglm model", for error messages.
            explanation: added where a shape differs.

        Returns:
            The encoder, in float32, frozen.

        Raises:
            AdapterError: a tensor is missing, of another shape, or not finite.
        """
        state = {
            name: self._read(name, parameter, model, explanation)
            for name, parameter in encoder.state_dict().items()
        }
        encoder.load_state_dict(state)
        return encoder.eval().requires_grad_(False)

    def _read(self, name: str, parameter: Tensor, model: str, explanation: str) -> Tensor:
        stored, directory = f"{self.start}{name}", self.checkpoint.directory
        if stored not in self.checkpoint:
            raise AdapterError(
                f"{directory}: tensor {stored} is missing; the adapter is incomplete, copy it again"
            )
        found = self.checkpoint.get_facts(stored).shape
        if found != tuple(parameter.shape):
            raise AdapterError(
                f"{directory}: {name} has shape {list(found)}, {model} needs {list(parameter.shape)}"
                f"{explanation}; the adapter was trained on another model"
            )
        value = self.checkpoint.read(stored, dtype=torch.float32, device=torch.device("cpu"))
        if not bool(torch.isfinite(value).all()):
            raise AdapterError(
                f"{directory}: {stored} holds values that are not finite; its training diverged. "
                "Use an earlier checkpoint"
            )
        return value


@dataclass(frozen=True)
class AdapterDirectory:
    """What an adapter's directory holds.

    Attributes:
        path: where the files are: the directory that was named, or its newest checkpoint.
        prefix: the encoder's tensors.
        stated: what our own file says; ``None`` for an adapter of the original trainer.
        published: the ``config.json`` beside the weights; empty if there is none.
    """

    path: Path
    prefix: PrefixTensors
    stated: AdapterConfig | None
    published: Mapping[str, Any]

    def require(self, *, pre_seq_len: int | None = None, prefix_projection: bool | None = None) -> None:
        """Refuse an adapter with other settings than its user says; ``None`` accepts any.

        Raises:
            AdapterError: naming the setting and both values.
        """
        for name, found, wanted in (
            ("pre_seq_len", self.prefix.pre_seq_len, pre_seq_len),
            ("prefix_projection", self.prefix.prefix_projection, prefix_projection),
        ):
            if wanted is not None and found != wanted:
                raise AdapterError(
                    f"{self.path} was trained with {name} {found}, but {name} {wanted} is asked for; "
                    f"pass {name}={found}"
                )


def open_adapter(directory: Path) -> AdapterDirectory:
    """Look at an adapter's directory; names and shapes are read, no weights.

    Args:
        directory: of an adapter, of a whole checkpoint with a prefix, or of a training job, whose newest
            checkpoint is taken.

    Raises:
        AdapterError: it is missing or damaged, holds no prefix, or its files contradict one another.
    """
    path = _find_weights(directory)
    stated = read_adapter_config(path)
    try:
        checkpoint = Checkpoint(path)
    except CheckpointError as error:
        raise AdapterError(f"adapter: {error}") from error
    prefix = find_prefix(checkpoint)
    if prefix is None:
        raise AdapterError(
            f"{path} holds no prefix encoder (no tensor {NAME_STARTS[0]}embedding.weight); "
            "pass the directory that P-Tuning v2 training wrote"
        )
    if stated is not None:
        _compare_settings(path, stated, prefix)
    return AdapterDirectory(path, prefix, stated, _read_published_config(path))


def find_prefix(checkpoint: Checkpoint) -> PrefixTensors | None:
    """Return the prefix encoder stored in a checkpoint, or ``None`` if it has none.

    Raises:
        AdapterError: its embedding is no table.
    """
    start = _name_start(checkpoint)
    if start is None:
        return None
    shape = checkpoint.get_facts(f"{start}embedding.weight").shape
    if len(shape) != 2 or not shape[0]:
        raise AdapterError(
            f"{checkpoint.directory}: {start}embedding.weight has shape {list(shape)}, a row for each of "
            "the prefix's positions is expected; the adapter is damaged, copy it again"
        )
    first = f"{start}trans.0.weight"
    return PrefixTensors(
        checkpoint,
        start,
        pre_seq_len=shape[0],
        prefix_projection=any(name.startswith(f"{start}trans.") for name in checkpoint),
        row_size=shape[1],
        inner_size=checkpoint.get_facts(first).shape[0] if first in checkpoint else shape[1],
    )


def _find_weights(directory: Path) -> Path:
    """Return the directory itself if it holds weights, else its newest ``checkpoint-N`` that does."""
    if not directory.is_dir():
        raise AdapterError(f"adapter directory {directory} does not exist; pass --adapter NAME=DIRECTORY")
    if weight_form_of(directory) is not None:
        return directory
    if (directory / PEFT_WEIGHTS).is_file():
        raise AdapterError(
            f"{directory} is an adapter of PEFT, which this runtime does not read; "
            "pass the directory that P-Tuning v2 training wrote"
        )
    steps = {
        int(match[1]): path
        for path in directory.iterdir()
        if (match := _CHECKPOINT_NAME.fullmatch(path.name)) and path.is_dir() and weight_form_of(path)
    }
    if not steps:
        return directory  # opening it says what is missing
    newest = steps[max(steps)]
    _log.warning(
        "glm: adapter %s holds no weights itself; taking its newest checkpoint, %s", directory, newest.name
    )
    return newest


def _compare_settings(path: Path, stated: AdapterConfig, prefix: PrefixTensors) -> None:
    for name in ("pre_seq_len", "prefix_projection"):
        in_file, in_weights = getattr(stated, name), getattr(prefix, name)
        if in_file != in_weights:
            raise AdapterError(
                f"{path}: {CONFIG_FILE} says {name} {in_file}, the weights have {in_weights}; "
                "the files are of different adapters"
            )


def _read_published_config(directory: Path) -> dict[str, Any]:
    # It only explains errors and names the base model, so a damaged one is no reason to refuse the adapter.
    try:
        content: Any = json.loads((directory / CONFIG).read_text("utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def _name_start(names: Iterable[str]) -> str | None:
    known = set(names)
    return next((start for start in NAME_STARTS if f"{start}embedding.weight" in known), None)
