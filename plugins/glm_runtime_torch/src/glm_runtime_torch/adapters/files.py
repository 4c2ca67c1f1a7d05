"""Our own format of an adapter: writing it, and reading ``glm_adapter.json``, which says what it fits.

An adapter is ``model.safetensors`` (float32, the original trainer's tensor names) and ``glm_adapter.json``.
The second is written last, so a directory that has it is complete.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import torch
from glm_hub.model_files import SAFETENSORS
from pydantic import Field
from torch import Tensor

from glm_core.errors import AdapterError, CheckpointError

from ..checkpoints.confinement import pin_file
from ..checkpoints.json_file import read_json
from ..checkpoints.record_file import FieldError, FileRecord, format_value, limit_integer, parse_record
from ..checkpoints.writer import flush_directory, write_tensors, write_text

if TYPE_CHECKING:
    from ..network.prefix_encoder import PrefixEncoder

CONFIG_FILE = "glm_adapter.json"
STORED_NAMES = "transformer.prefix_encoder."
FORMAT = "glm-adapter"
FORMAT_VERSION = 1

# Bounds of what a file may state, far above any published model. Weights are compared with the sizes all the
# same; the bounds keep products of sizes, and messages that repeat a name, small.
MAX_POSITIONS = 2**20
MAX_SIZE = 2**16
MAX_NAME = 4096  # characters: a path is a name too


@dataclass(frozen=True)
class BaseModel:
    """The model that an adapter was trained on, as far as its file can say.

    Attributes:
        name: as the user wrote it.
        fingerprint: see `adapters.fingerprint`; empty = unknown.
    """

    name: str
    fingerprint: str = ""


@dataclass(frozen=True)
class AdapterConfig:
    """The content of ``glm_adapter.json``.

    Attributes:
        family: name of the model family.
        pre_seq_len: positions of the prefix.
        prefix_projection: whether a two-layer network makes the keys and values.
        num_layers: of the base model.
        num_kv_heads: of the base model.
        head_dim: of the base model.
        base: the base model.
        training: settings of the training run, for people.
        created_by: package and version that wrote it.
    """

    family: str
    pre_seq_len: int
    prefix_projection: bool
    num_layers: int
    num_kv_heads: int
    head_dim: int
    base: BaseModel = BaseModel("")
    training: Mapping[str, Any] = field(default_factory=dict)
    created_by: str = ""


def save_adapter(
    directory: Path,
    encoder: PrefixEncoder,
    *,
    family: str,
    base: BaseModel,
    training: Mapping[str, Any] | None = None,
) -> None:
    """Write a prefix encoder; each file appears under its name only when it is complete.

    Other files in the directory stay as they are.

    Args:
        directory: made if it is not there.
        encoder: in any dtype, on any device; not changed.
        family: name of the base model's family.
        base: the base model, such as `TorchModel.base`.
        training: settings to keep for people; whatever JSON can hold.

    Raises:
        AdapterError: the directory cannot be written, or a weight is not finite.
    """
    state = {
        f"{STORED_NAMES}{name}": value.detach().to("cpu", torch.float32)
        for name, value in encoder.state_dict().items()
    }
    for name, value in state.items():
        if not bool(torch.isfinite(value).all()):
            raise AdapterError(f"{name} holds values that are not finite; {directory} was not written")
    content = _build_content(encoder, state, family=family, base=base, training=training or {})
    try:
        directory.mkdir(parents=True, exist_ok=True)
        write_tensors(directory / SAFETENSORS.single, state)
        write_text(directory / CONFIG_FILE, json.dumps(content, indent=1, ensure_ascii=False) + "\n")
        flush_directory(directory)
    except OSError as error:
        raise AdapterError(
            f"the adapter cannot be written to {directory}: {error.strerror or error}; "
            "make room there, or choose another directory"
        ) from error


def _build_content(
    encoder: PrefixEncoder,
    state: Mapping[str, Tensor],
    *,
    family: str,
    base: BaseModel,
    training: Mapping[str, Any],
) -> dict[str, Any]:
    """Return what ``glm_adapter.json`` will say."""
    return {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "family": family,
        "pre_seq_len": encoder.pre_seq_len,
        "prefix_projection": encoder.trans is not None,
        "num_layers": encoder.num_layers,
        "num_kv_heads": encoder.num_kv_heads,
        "head_dim": encoder.head_dim,
        "shapes": {name: list(value.shape) for name, value in state.items()},
        "base": {"name": base.name, "fingerprint": base.fingerprint},
        "training": dict(training),
        "created_by": f"glm-runtime-torch {metadata.version('glm-runtime-torch')}",
    }


def _limit_text(length: int) -> Any:
    """Return the annotation of text within a length, which is part of what an error says."""
    return Field(max_length=length, description=f"text of at most {length:,} characters")


class _BaseRecord(FileRecord):
    """``base`` in ``glm_adapter.json``; see `BaseModel`."""

    name: Annotated[str, _limit_text(MAX_NAME)] = ""
    fingerprint: Annotated[str, _limit_text(MAX_NAME)] = ""


class _AdapterRecord(FileRecord):
    """``glm_adapter.json``; see `AdapterConfig`. Keys that only people read are not required."""

    family: Annotated[str, _limit_text(64)]
    prefix_projection: bool
    pre_seq_len: Annotated[int, limit_integer(1, MAX_POSITIONS)]
    num_layers: Annotated[int, limit_integer(1, MAX_SIZE)]
    num_kv_heads: Annotated[int, limit_integer(1, MAX_SIZE)]
    head_dim: Annotated[int, limit_integer(1, MAX_SIZE)]
    base: _BaseRecord = _BaseRecord()
    training: dict[str, Any] = Field(default_factory=dict)
    created_by: Annotated[str, _limit_text(MAX_NAME)] = ""


def read_adapter_config(directory: Path, inside: Path | None = None) -> AdapterConfig | None:
    """Return what ``glm_adapter.json`` says; ``None`` for a directory without one, such as the original's.

    Args:
        directory: of the adapter.
        inside: read no file that is really elsewhere; ``None`` = anywhere.

    Raises:
        AdapterError: the file is damaged, of a newer format, or a key is missing or not as expected.
        OutsideFolderError: it is not inside ``inside``.
    """
    path = directory / CONFIG_FILE
    if not os.path.lexists(path):  # a link that leads nowhere is refused below
        return None
    try:
        with pin_file(path, inside) as real:
            content = read_json(real)
    except CheckpointError as error:
        raise AdapterError(str(error)) from error
    # Before the other keys, because in another format they may hold something else.
    if content.get("format") != FORMAT:
        raise AdapterError(f"{path} does not describe an adapter: its format is not {FORMAT!r}")
    version = content.get("format_version")
    if type(version) is not int or not 1 <= version <= FORMAT_VERSION:
        raise AdapterError(
            f"{path} has format_version {format_value(version)}, this glm-runtime-torch reads "
            f"{FORMAT_VERSION}; update it: pip install --upgrade glm-runtime-torch"
        )
    try:
        record = parse_record(_AdapterRecord, content)
    except FieldError as error:
        raise AdapterError(f"{path}: {error}; copy or train the adapter again") from error
    return AdapterConfig(
        family=record.family,
        pre_seq_len=record.pre_seq_len,
        prefix_projection=record.prefix_projection,
        num_layers=record.num_layers,
        num_kv_heads=record.num_kv_heads,
        head_dim=record.head_dim,
        base=BaseModel(record.base.name, record.base.fingerprint),
        training=record.training,
        created_by=record.created_by,
    )
