"""One view of a checkpoint's tensors, whatever its file form.

Forms: ``model.safetensors``, ``pytorch_model.bin``, and both sharded with an index file. Opening
reads names, shapes and dtypes only; a tensor's bytes are read when it is asked for.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from glm_hub.model_files import SAFETENSORS, TORCH, find_weight_form
from safetensors import SafetensorError, safe_open
from torch import Tensor

from glm_core.errors import CheckpointError

from ..network.memory import find_mapping, release_pages
from .confinement import pin_file
from .integrity import check_not_lfs_pointer, check_not_sparse, has_file
from .record_file import FileRecord, format_value, read_record
from .stored_scale import SAFETENSORS_DTYPES, StoredScale
from .torch_file import TorchFile, describe_damage

# Small, because temporaries of this size stay on the C library's heap: pieces of 4 MB left it 100 MB
# larger after quantising 1 GB of weights.
PIECE_BYTES = 2**20
# Room for 300,000 tensors; the largest published model has 92,000 in all of its files together.
MAX_HEADER_BYTES = 16 * 2**20
MAX_NAME_BYTES = 255  # what file systems take
# What wrappers around a whole model put in front of its names: data parallelism, compilation, PEFT.
WRAPPERS = ("module.", "_orig_mod.", "base_model.model.")

_log = logging.getLogger("glm")


@dataclass(frozen=True)
class TensorFacts:
    """What is known of a stored tensor without reading it."""

    shape: tuple[int, ...]
    dtype: torch.dtype


class Checkpoint:
    """The tensors of a checkpoint directory by their stored names.

    Args:
        directory: holds one of the forms above; safetensors are preferred.
        inside: open no file that is really elsewhere; ``None`` = anywhere.
        paths: the weight files, where the caller knows them; otherwise they are looked for.

    Attributes:
        paths: the weight files.

    Raises:
        CheckpointError: files are missing, damaged, pointers, or hold code.
        OutsideFolderError: a file is not inside ``inside``.
    """

    def __init__(self, directory: Path, *, inside: Path | None = None, paths: Sequence[Path] = ()) -> None:
        self.directory = directory
        self.paths, weight_map = (list(paths), {}) if paths else _find_weight_files(directory, inside)
        self._tensors: dict[str, tuple[_File, str]] = {}
        self._companions: dict[str, tuple[_File, str]] = {}
        self._scales: dict[str, StoredScale] = {}
        for path in self.paths:
            file = _open(path, inside)
            for name in file.facts:
                # Where two files hold a tensor (a tied table may be in both), the index says which counts.
                if name not in self._tensors or weight_map.get(name) == path.name:
                    self._tensors[name] = file, name
        self._strip_wrappers()

    def __contains__(self, name: object) -> bool:
        return name in self._tensors

    def __iter__(self) -> Iterator[str]:
        return iter(self._tensors)

    def __len__(self) -> int:
        return len(self._tensors)

    def get_facts(self, name: str) -> TensorFacts:
        """Return shape and dtype of a stored tensor, as it is read."""
        file, stored = self._tensors[name]
        facts = file.facts[stored]
        return replace(facts, dtype=torch.float32) if name in self._scales else facts

    def get_stored_dtype(self, name: str) -> torch.dtype:
        """Return the dtype of a tensor in its file."""
        file, stored = self._tensors[name]
        return file.facts[stored].dtype

    def decode(self, scales: Mapping[str, StoredScale], companions: Iterable[str]) -> None:
        """Read some matrices as numbers times scales from here on, in float32.

        Args:
            scales: the matrices, each with its scale.
            companions: tensors that belong to the stored form, such as the scales; they are hidden, because
                whoever copies the model would copy what means nothing any more.
        """
        self._scales = dict(scales)
        self._companions = {name: self._tensors.pop(name) for name in companions}

    def rename_tied(self, aliases: Mapping[str, Sequence[str]]) -> None:
        """Take a tensor that is stored under another name of a tied parameter under the parameter's own.

        Libraries that store shared memory once keep either name, such as the head's instead of the table's.

        Args:
            aliases: name of a parameter to its other names; see `network.parameters.list_aliases`.
        """
        for name, others in aliases.items():
            stored = next((other for other in others if other in self._tensors), None)
            if name not in self._tensors and stored is not None:
                self._tensors[name] = self._tensors.pop(stored)
                if stored in self._scales:
                    self._scales[name] = self._scales.pop(stored)

    def read(self, name: str, *, dtype: torch.dtype, device: torch.device) -> Tensor:
        """Return a copy of a stored tensor in the wanted dtype on the wanted device.

        Copied piece by piece, giving each piece's file pages back, so that besides the result
        at most `PIECE_BYTES` of the file are resident.
        """
        stored = self._get(name)
        result = torch.empty(stored.shape, dtype=dtype, device=device)
        if stored.dim() == 0:
            result.copy_(stored)
        for start, rows in self.read_row_pieces(name) if stored.dim() else ():
            result[start : start + len(rows)].copy_(rows)
        return result

    def read_rows(self, name: str, indices: Tensor) -> Tensor:
        """Return some rows of a stored tensor, in the dtype of its facts; nothing else of it is read."""
        rows, scale = self._get(name)[indices], self._scales.get(name)
        return rows if scale is None else scale.decode(rows, self._read_scales(scale), indices)

    def read_pieces(self, name: str) -> Iterator[Tensor]:
        """Yield a tensor in the dtype of its facts, some rows at a time, valid until the next."""
        if self.get_facts(name).shape:
            yield from (rows for _, rows in self.read_row_pieces(name))
        else:
            yield self._get(name)

    def read_row_pieces(self, name: str) -> Iterator[tuple[int, Tensor]]:
        """Yield the first row's index and a view of some rows, valid until the next is asked for."""
        file, stored_name = self._tensors[name]
        stored = file.get(stored_name)
        scale = self._scales.get(name)
        scales = None if scale is None else self._read_scales(scale)
        row_bytes = stored[:1].numel() * stored.element_size()
        step = max(1, PIECE_BYTES // max(1, row_bytes))
        can_release = stored.is_contiguous() and file.is_mapped(stored)
        mapping = file.find_mapping(stored) if can_release else (0, 0)
        for start in range(0, stored.shape[0], step):
            rows = stored[start : start + step]
            if scale is None or scales is None:
                yield start, rows
            else:
                yield start, scale.decode(rows, scales, torch.arange(start, start + len(rows)))
            if can_release:
                release_pages(rows, mapping)

    def _read_scales(self, scale: StoredScale) -> Tensor:
        file, stored = self._companions[scale.name]
        return file.get(stored).float()

    def _get(self, name: str) -> Tensor:
        file, stored = self._tensors[name]
        return file.get(stored)

    def _strip_wrappers(self) -> None:
        """Take the tensors without what a wrapper around the whole model put in front of every name."""
        wrapper = next((one for one in WRAPPERS if all(name.startswith(one) for name in self)), None)
        if wrapper is not None and self._tensors:
            _log.info("glm: %s: tensor names are taken without %r in front", self.directory, wrapper)
            self._tensors = {name.removeprefix(wrapper): place for name, place in self._tensors.items()}
            self._strip_wrappers()  # one may stand inside another


class _File:
    """One weight file: facts of its tensors, and the tensors themselves on demand."""

    facts: dict[str, TensorFacts]
    _mapping = (0, 0)

    def find_mapping(self, tensor: Tensor) -> tuple[int, int]:
        """Return the file mapping that a tensor of this file lies on, see `find_mapping`."""
        if not self._mapping[0] <= tensor.data_ptr() < self._mapping[1]:  # most often one holds all tensors
            self._mapping = find_mapping(tensor)
        return self._mapping

    def get(self, name: str) -> Tensor:
        raise AssertionError("each file form defines this")  # pragma: no cover

    def is_mapped(self, tensor: Tensor) -> bool:
        """Return whether a tensor of `get` lies on the mapped file, not in memory of its own."""
        return True


class _SafetensorsFile(_File):
    def __init__(self, path: Path) -> None:
        self._path = path
        _check_header_size(path)
        try:
            self._file = safe_open(path, framework="pt", device="cpu")
            self.facts = {name: self._read_facts(name) for name in self._file.keys()}  # noqa: SIM118
        except (SafetensorError, OSError) as error:
            raise CheckpointError(describe_damage(path, error)) from error

    def get(self, name: str) -> Tensor:
        tensor: Tensor = self._file.get_tensor(name)
        return tensor

    def _read_facts(self, name: str) -> TensorFacts:
        part = self._file.get_slice(name)
        dtype = part.get_dtype()
        if dtype not in SAFETENSORS_DTYPES:
            raise CheckpointError(
                f"{self._path}: tensor {name[:80]} holds {dtype} numbers, which this runtime does not "
                f"read; it reads {', '.join(SAFETENSORS_DTYPES)}. Take the float16 or bfloat16 weights."
            )
        return TensorFacts(tuple(part.get_shape()), SAFETENSORS_DTYPES[dtype])


class _TorchFile(_File):
    def __init__(self, path: Path) -> None:
        self._file = TorchFile(path)
        self.facts = {
            name: TensorFacts(tensor.shape, tensor.dtype) for name, tensor in self._file.tensors.items()
        }

    def get(self, name: str) -> Tensor:
        return self._file.get(name)

    def is_mapped(self, tensor: Tensor) -> bool:
        return self._file.is_mapped(tensor)


def _open(path: Path, inside: Path | None) -> _File:
    # Both forms map the file when they are made, so nothing is opened by its name later.
    with pin_file(path, inside) as real:
        check_not_lfs_pointer(real)
        check_not_sparse(real)
        return _SafetensorsFile(real) if path.suffix == ".safetensors" else _TorchFile(real)


def _check_header_size(path: Path) -> None:
    """Refuse a safetensors header that would make the library list more tensors than any model has."""
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
    size = path.stat().st_size
    if MAX_HEADER_BYTES < length < size:  # one that is longer than the file is told by the library
        raise CheckpointError(
            f"{path} has a header of {length:,} bytes, at most {MAX_HEADER_BYTES:,} are expected; "
            "it is not the file that its name says. Download it again."
        )


class _IndexFile(FileRecord):
    weight_map: dict[str, str]


def _find_weight_files(directory: Path, inside: Path | None) -> tuple[list[Path], Mapping[str, str]]:
    """Return the weight files of a directory, and what their index says: a tensor's name to its file's."""
    form = find_weight_form(directory)
    if form is not None:
        index = directory / form.index
        if not index.is_file():
            return [directory / form.single], {}
        with pin_file(index, inside) as real:
            weight_map = read_record(real, _IndexFile).weight_map
        return _find_shards(index, sorted(set(weight_map.values()))), weight_map
    for name in (SAFETENSORS.single, SAFETENSORS.index, TORCH.single, TORCH.index):
        has_file(directory / name)  # what stands in its place is told
    there = sorted(path.name for path in directory.iterdir())
    raise CheckpointError(
        f"{directory} holds no weights: expected {SAFETENSORS.single} or {TORCH.single}, or one of them "
        f"in shards with an index; found {', '.join(there[:8]) or 'nothing'}{', …' * (len(there) > 8)}."
    )


def _find_shards(index: Path, names: Sequence[str]) -> list[Path]:
    for name in names:
        if "/" in name or "\\" in name:
            raise CheckpointError(
                f"{index} names weight files outside its own directory; it is not to be trusted."
            )
        is_weights = name.endswith((".safetensors", ".bin")) and name.isprintable()
        if not is_weights or len(name.encode()) > MAX_NAME_BYTES:
            raise CheckpointError(
                f"{index} names a weight file {format_value(name)}; a name of at most {MAX_NAME_BYTES} bytes "
                "that ends in .safetensors or .bin is expected. Download it again."
            )
    missing = [name for name in names if not (index.parent / name).is_file()]
    if missing:
        raise CheckpointError(
            f"{index.parent}: {len(missing)} of {len(names)} weight files are missing: "
            f"{', '.join(map(format_value, missing[:3]))}"
            f"{', …' if len(missing) > 3 else ''}. Download them into that directory."
        )
    return [index.parent / name for name in names]
