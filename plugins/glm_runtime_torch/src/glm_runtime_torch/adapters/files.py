"""Our own files of an adapter: ``glm_adapter.json``, which says what it fits, and how both are written.

An adapter is ``model.safetensors`` (float32, the original trainer's tensor names) and ``glm_adapter.json``.
The second is written last, so a directory that has it is complete.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from glm_hub.model_files import SAFETENSORS
from torch import Tensor

from glm_core.errors import AdapterError, CheckpointError

from ..checkpoints.integrity import check_not_lfs_pointer
from ..checkpoints.writer import flush_directory, write_tensors, write_text

if TYPE_CHECKING:
    from ..network.prefix_encoder import PrefixEncoder

CONFIG_FILE = "glm_adapter.json"
STORED_NAMES = "transformer.prefix_encoder."
FORMAT = "glm-adapter"
FORMAT_VERSION = 1


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


def read_adapter_config(directory: Path) -> AdapterConfig | None:
    """Return what ``glm_adapter.json`` says; ``None`` for a directory without one, such as the original's.

    Raises:
        AdapterError: the file is damaged, of a newer format, or lacks something.
    """
    path = directory / CONFIG_FILE
    if not path.is_file():
        return None
    content = _read_object(path)
    version = content.get("format_version")
    if not isinstance(version, int) or version > FORMAT_VERSION:
        raise AdapterError(
            f"{path} has format version {version!r}, this glm-runtime-torch reads {FORMAT_VERSION}; "
            "update it: pip install --upgrade glm-runtime-torch"
        )
    base = content.get("base")
    try:
        return AdapterConfig(
            family=_get_typed(content, "family", str),
            prefix_projection=_get_typed(content, "prefix_projection", bool),
            **{
                name: _get_typed(content, name, int)
                for name in ("pre_seq_len", "num_layers", "num_kv_heads", "head_dim")
            },
            base=BaseModel(str(base.get("name", "")), str(base.get("fingerprint", "")))
            if isinstance(base, dict)
            else BaseModel(""),
            training=content["training"] if isinstance(content.get("training"), dict) else {},
            created_by=str(content.get("created_by", "")),
        )
    except (KeyError, TypeError) as error:
        raise AdapterError(f"{path}: {error.args[0]}; copy or train the adapter again") from error


def _read_object(path: Path) -> dict[str, Any]:
    try:
        check_not_lfs_pointer(path)
        content: Any = json.loads(path.read_text("utf-8"))
    except CheckpointError as error:
        raise AdapterError(str(error)) from error
    except (OSError, ValueError) as error:
        raise AdapterError(f"{path} is not valid JSON ({error}); copy or train the adapter again") from error
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise AdapterError(f"{path} does not describe an adapter: its format is not {FORMAT!r}")
    return content


_EXPECTED = {int: "an integer", bool: "true or false", str: "text"}


def _get_typed(content: Mapping[str, Any], name: str, kind: type) -> Any:
    if name not in content:
        raise KeyError(f"{name} is missing")
    value = content[name]
    if type(value) is not kind:
        raise TypeError(f"{name} is {value!r}, {_EXPECTED[kind]} is expected")
    return value
