"""One view of a checkpoint's tensors, whatever its file form.

Forms: ``model.safetensors``, ``pytorch_model.bin``, and both sharded with an index file. Opening
reads names, shapes and dtypes only; a tensor's bytes are read when it is asked for.
"""

from __future__ import annotations

import json
import pickle
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from glm_hub.model_files import SAFETENSORS, TORCH, weight_form_of
from safetensors import SafetensorError, safe_open
from torch import Tensor

from glm_core.errors import CheckpointError

from ..network.memory import find_mapping, release_pages
from .integrity import check_not_lfs_pointer

# Small, because temporaries of this size stay on the C library's heap: pieces of 4 MB left it 100 MB
# larger after quantising 1 GB of weights.
PIECE_BYTES = 2**20


@dataclass(frozen=True)
class TensorFacts:
    """What is known of a stored tensor without reading it."""

    shape: tuple[int, ...]
    dtype: torch.dtype


class Checkpoint:
    """The tensors of a checkpoint directory by their stored names.

    Args:
        directory: holds one of the forms above; safetensors are preferred.

    Attributes:
        paths: the weight files.

    Raises:
        CheckpointError: files are missing, damaged, pointers, or hold code.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.paths = _weight_files(directory)
        self._files: dict[str, _File] = {}
        for path in self.paths:
            file = _open(path)
            for name in file.facts:
                self._files[name] = file

    def __contains__(self, name: object) -> bool:
        return name in self._files

    def __iter__(self) -> Iterator[str]:
        return iter(self._files)

    def facts(self, name: str) -> TensorFacts:
        """Return shape and dtype of a stored tensor."""
        return self._files[name].facts[name]

    def require(self, shapes: Mapping[str, tuple[int, ...]]) -> None:
        """Check that every named tensor is there and has the expected shape.

        Raises:
            CheckpointError: naming the first tensor that is not, before any memory is spent.
        """
        missing = [name for name in shapes if name not in self]
        if missing:
            more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
            raise CheckpointError(
                f"{self.directory}: tensor {missing[0]}{more} is in none of the weight files; "
                "the checkpoint is incomplete or of another model. Download it again."
            )
        for name, expected in shapes.items():
            found = self.facts(name).shape
            if found != expected:
                raise CheckpointError(
                    f"{self.directory}: tensor {name} has shape {list(found)}, but config.json asks for "
                    f"{list(expected)}. Weights and config.json are of different models; download both again."
                )

    def read(self, name: str, *, dtype: torch.dtype, device: torch.device) -> Tensor:
        """Return a copy of a stored tensor in the wanted dtype on the wanted device.

        Copied piece by piece, giving each piece's file pages back, so that besides the result
        at most `PIECE_BYTES` of the file are resident.
        """
        stored = self._files[name].get(name)
        result = torch.empty(stored.shape, dtype=dtype, device=device)
        if stored.dim() == 0:
            result.copy_(stored)
        for start, rows in self.row_pieces(name) if stored.dim() else ():
            result[start : start + len(rows)].copy_(rows)
        return result

    def rows(self, name: str, indices: Tensor) -> Tensor:
        """Return some rows of a stored tensor, in its dtype; nothing else of it is read."""
        return self._files[name].get(name)[indices]

    def pieces(self, name: str) -> Iterator[Tensor]:
        """Yield a stored tensor in its dtype, some rows at a time, each valid until the next is asked for."""
        if self.facts(name).shape:
            yield from (rows for _, rows in self.row_pieces(name))
        else:
            yield self._files[name].get(name)

    def row_pieces(self, name: str) -> Iterator[tuple[int, Tensor]]:
        """Yield the first row's index and a view of some rows, valid until the next is asked for."""
        file = self._files[name]
        stored = file.get(name)
        row_bytes = stored[:1].numel() * stored.element_size()
        step = max(1, PIECE_BYTES // max(1, row_bytes))
        can_release = file.mapped and stored.is_contiguous()
        mapping = file.find_mapping(stored) if can_release else (0, 0)
        for start in range(0, stored.shape[0], step):
            rows = stored[start : start + step]
            yield start, rows
            if can_release:
                release_pages(rows, mapping)


class _File:
    """One weight file: facts of its tensors, and the tensors themselves on demand."""

    facts: dict[str, TensorFacts]
    mapped: bool = True
    _mapping = (0, 0)

    def find_mapping(self, tensor: Tensor) -> tuple[int, int]:
        """Return the file mapping that a tensor of this file lies on, see `find_mapping`."""
        if not self._mapping[0] <= tensor.data_ptr() < self._mapping[1]:  # most often one holds all tensors
            self._mapping = find_mapping(tensor)
        return self._mapping

    def get(self, name: str) -> Tensor:
        raise AssertionError("each file form defines this")  # pragma: no cover


class _SafetensorsFile(_File):
    def __init__(self, path: Path) -> None:
        try:
            self._file = safe_open(path, framework="pt", device="cpu")
            self.facts = {name: self._read_facts(name) for name in self._file.keys()}  # noqa: SIM118
        except (SafetensorError, OSError) as error:
            raise CheckpointError(_damaged(path, error)) from error

    def get(self, name: str) -> Tensor:
        tensor: Tensor = self._file.get_tensor(name)
        return tensor

    def _read_facts(self, name: str) -> TensorFacts:
        part = self._file.get_slice(name)
        return TensorFacts(tuple(part.get_shape()), SAFETENSORS_DTYPES[part.get_dtype()])


class _TorchFile(_File):
    def __init__(self, path: Path) -> None:
        self._tensors = self._load(path)
        self.facts = {
            name: TensorFacts(tuple(tensor.shape), tensor.dtype) for name, tensor in self._tensors.items()
        }

    def get(self, name: str) -> Tensor:
        return self._tensors[name]

    def _load(self, path: Path) -> dict[str, Tensor]:
        self.mapped = _is_zip(path)  # files written before torch 1.6 are no zip and cannot be mapped
        try:
            content: Any = torch.load(path, map_location="cpu", mmap=self.mapped, weights_only=True)
        except pickle.UnpicklingError as error:
            # A zip that is cut off fails earlier; in the old format only the wording tells which it is.
            if not self.mapped and "unsupported" not in str(error).lower():
                raise CheckpointError(_damaged(path, error)) from error
            raise CheckpointError(
                f"{path} holds something other than tensors: Python code would run if it were loaded, "
                "so it is refused. Get the weights as safetensors, or from their authors."
            ) from error
        except (RuntimeError, EOFError, OSError, ValueError, KeyError) as error:
            raise CheckpointError(_damaged(path, error)) from error
        if not isinstance(content, dict) or not all(isinstance(value, Tensor) for value in content.values()):
            raise CheckpointError(
                f"{path} holds a {type(content).__name__}, not a table of tensors; "
                "pass the model's own weights, not a training state."
            )
        return content


SAFETENSORS_DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}


def _open(path: Path) -> _File:
    check_not_lfs_pointer(path)
    return _SafetensorsFile(path) if path.suffix == ".safetensors" else _TorchFile(path)


def _weight_files(directory: Path) -> list[Path]:
    form = weight_form_of(directory)
    if form is not None:
        index = directory / form.index
        return _shards(index) if index.is_file() else [directory / form.single]
    there = sorted(path.name for path in directory.iterdir())
    raise CheckpointError(
        f"{directory} holds no weights: expected {SAFETENSORS.single} or {TORCH.single}, or one of them "
        f"in shards with an index; found {', '.join(there[:8]) or 'nothing'}{', …' * (len(there) > 8)}."
    )


def _shards(index: Path) -> list[Path]:
    check_not_lfs_pointer(index)
    try:
        weight_map = json.loads(index.read_text("utf-8"))["weight_map"]
        names = sorted(set(weight_map.values()))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{index} is no index of weight files ({error}); download it again.") from error
    if any("/" in name or "\\" in name for name in names):
        raise CheckpointError(
            f"{index} names weight files outside its own directory; it is not to be trusted."
        )
    missing = [name for name in names if not (index.parent / name).is_file()]
    if missing:
        raise CheckpointError(
            f"{index.parent}: {len(missing)} of {len(names)} weight files are missing: "
            f"{', '.join(missing[:3])}"
            f"{', …' if len(missing) > 3 else ''}. Download them into that directory."
        )
    return [index.parent / name for name in names]


def _is_zip(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(2) == b"PK"


def _damaged(path: Path, error: Exception) -> str:
    reason = " ".join(str(error).split())[:120] or type(error).__name__
    return (
        f"{path} ({path.stat().st_size:,} bytes) is damaged or cut off: {reason}. "
        "Compare its size with the model's page and download it again."
    )
