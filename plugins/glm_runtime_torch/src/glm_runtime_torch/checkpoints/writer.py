"""Writing a safetensors file tensor by tensor: no more of it is in memory than is being written.

We write the format ourselves because the library's own ``save_file`` takes whole shards, gigabytes at a time.
The format is eight bytes with the header's length, the header (JSON: dtype, shape and place of each tensor),
and the tensors' bytes.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

import torch
from torch import Tensor

from .stored_scale import SAFETENSORS_DTYPES

_NAMES = {dtype: name for name, dtype in SAFETENSORS_DTYPES.items()}
_ALIGNMENT = 8  # bytes; the format asks for it, so that every tensor can be mapped where it lies


@dataclass(frozen=True)
class TensorEntry:
    """A tensor that a file will hold."""

    name: str
    dtype: torch.dtype
    shape: tuple[int, ...]

    @property
    def num_bytes(self) -> int:
        """Return its size in the file."""
        return torch.Size(self.shape).numel() * self.dtype.itemsize


class SafetensorsWriter:
    """One file, its tensors written in any order; it has its name only once it is complete and on the disk.

    As a context manager: leaving it in peace finishes the file, an exception removes what there is.

    Args:
        path: final name; ``.tmp`` is added while writing.
        entries: everything that will be written.
    """

    def __init__(self, path: Path, entries: Sequence[TensorEntry]) -> None:
        self._path = path
        self._unfinished = path.with_name(f"{path.name}.tmp")
        # Wide dtypes first, as the library does it: then every tensor is aligned.
        ordered = sorted(entries, key=lambda entry: -entry.dtype.itemsize)
        self._header = _build_header(ordered)
        self._places: dict[str, int] = {}
        place = len(self._header)
        for entry in ordered:
            self._places[entry.name] = place
            place += entry.num_bytes
        self._missing = {entry.name: entry for entry in entries}

    def __enter__(self) -> SafetensorsWriter:
        self._file = self._unfinished.open("wb")
        self._file.write(self._header)
        return self

    def write(self, name: str, pieces: Iterable[Tensor]) -> None:
        """Write one tensor, in pieces that together are its elements in order."""
        entry, written = self._missing.pop(name), 0
        self._file.seek(self._places[name])
        for piece in pieces:
            assert piece.dtype == entry.dtype, f"{name}: {piece.dtype} instead of {entry.dtype}"
            content = piece.detach().contiguous().reshape(-1).view(torch.uint8).numpy().data
            self._file.write(content)
            written += len(content)
        assert written == entry.num_bytes, f"{name}: {written} bytes instead of {entry.num_bytes}"

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if kind is None:
                assert not self._missing, f"{next(iter(self._missing))} was not written"
                self._file.flush()
                os.fsync(self._file.fileno())
                self._file.close()
                self._unfinished.replace(self._path)
        finally:
            with contextlib.suppress(OSError):  # a full disk cannot take what is still in the buffer
                self._file.close()
            self._unfinished.unlink(missing_ok=True)


def write_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write tensors that are in memory to one safetensors file, one after the other.

    Args:
        path: final name, which the file has only once it is complete and on the disk.
        tensors: on any device, of any dtype that the format has; not changed.
    """
    entries = [TensorEntry(name, tensor.dtype, tuple(tensor.shape)) for name, tensor in tensors.items()]
    with SafetensorsWriter(path, entries) as writer:
        for name, tensor in tensors.items():
            writer.write(name, [tensor.detach().cpu()])


def write_text(path: Path, text: str) -> None:
    """Write a small file at once or not at all."""
    unfinished = path.with_name(f"{path.name}.tmp")
    try:
        with unfinished.open("w", encoding="utf-8", newline="\n") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)  # of a write that failed


def flush_directory(directory: Path) -> None:
    """Bring a directory's names to the disk, where the system can."""
    if os.name == "nt":
        return
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _build_header(entries: Iterable[TensorEntry]) -> bytes:
    table: dict[str, object] = {"__metadata__": {"format": "pt"}}
    place = 0
    for entry in entries:
        offsets = [place, place + entry.num_bytes]
        table[entry.name] = {
            "dtype": _NAMES[entry.dtype],
            "shape": list(entry.shape),
            "data_offsets": offsets,
        }
        place = offsets[1]
    text = json.dumps(table, separators=(",", ":")).encode()
    text += b" " * (-len(text) % _ALIGNMENT)
    return len(text).to_bytes(8, "little") + text
