"""Files that ``torch.save`` wrote: where their tensors are, found without running or allocating anything.

A pickle is a small program, and ``torch.load`` runs it even with ``weights_only``: it takes the memory that a
file asks for (``bytearray(10**10)``, a storage of 61 GB), and unpacks compressed archives. So the table of
tensors is read here. Its operations are looked through first; what it may call only notes names, shapes and
places; and every place must lie inside the file, which is then mapped.
"""

from __future__ import annotations

import io
import math
import pickle
import pickletools
import struct
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor

from glm_core.errors import CheckpointError

# A tensor takes about 300 bytes and 30 operations of it; files of published models have some hundreds.
MAX_PICKLE_BYTES = 4 * 2**20
MAX_PICKLE_OPERATIONS = 500_000
MAX_ARCHIVE_ENTRIES = 2**15  # each takes about 1 kB while the archive is looked through
# Tied tables share their memory, so tensors may be up to twice what the file holds.
MAX_SHARING = 2
SMALL_BYTES = 2**20  # a file that claims less than this is not worth a refusal

_ZIP_START = b"PK\x03\x04"
# The format before torch 1.6: magic number, protocol, system, the table, the storages' keys; then the bytes.
_LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
# Operations of protocol 2, in which torch.save writes; none of them takes more memory than it has bytes.
_OPERATIONS = {
    *("PROTO", "STOP", "MARK", "GLOBAL", "REDUCE", "BUILD", "BINPERSID", "NONE", "NEWTRUE", "NEWFALSE"),
    *("BINGET", "LONG_BINGET", "BINPUT", "LONG_BINPUT", "BININT", "BININT1", "BININT2", "LONG1"),
    *("BINFLOAT", "BINUNICODE", "SHORT_BINSTRING", "EMPTY_TUPLE", "TUPLE", "TUPLE1", "TUPLE2", "TUPLE3"),
    *("EMPTY_LIST", "APPEND", "APPENDS", "EMPTY_DICT", "SETITEM", "SETITEMS"),
}
_STORAGES = {
    "DoubleStorage": torch.float64,
    "FloatStorage": torch.float32,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
    "ComplexFloatStorage": torch.complex64,
    "ComplexDoubleStorage": torch.complex128,
}


class _Noted:
    """Something that a table names; a pickle may not set its attributes."""

    def __setstate__(self, state: object) -> None:
        raise pickle.UnpicklingError("attributes are set where torch.save sets none")


@dataclass(frozen=True)
class _Storage(_Noted):
    """Numbers in a file, as the table names them."""

    key: str
    dtype: torch.dtype
    num_bytes: int
    start: int = 0  # bytes from the beginning of what the key stands for


@dataclass(frozen=True)
class StoredTensor(_Noted):
    """A tensor in a file: where its numbers are and how they are counted.

    Attributes:
        storage: what it is a view of.
        dtype: of its numbers.
        offset: of its first number in the storage, in numbers.
        shape: of the tensor.
        stride: in numbers.
    """

    storage: _Storage
    dtype: torch.dtype
    offset: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]

    @property
    def num_bytes(self) -> int:
        """Bytes of a copy of it."""
        return math.prod(self.shape) * self.dtype.itemsize


class TorchFile:
    """The tensors of a file that ``torch.save`` wrote, in either of its formats.

    Attributes:
        tensors: by name, in the order of the file.

    Args:
        path: the file.

    Raises:
        CheckpointError: the file is damaged, holds something other than tensors, or claims to hold more
            than it does.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._size = path.stat().st_size
        try:
            with path.open("rb") as file:
                is_zip = file.read(len(_ZIP_START)) == _ZIP_START
            content, self._places = _read_archive(path) if is_zip else _read_legacy(path)
        except CheckpointError:
            raise
        except Exception as error:  # the bytes of a stranger may lead to any error of the libraries
            raise CheckpointError(describe_damage(path, error)) from error
        if not isinstance(content, dict) or not all(
            isinstance(name, str) and isinstance(value, StoredTensor) for name, value in content.items()
        ):
            raise CheckpointError(
                f"{path} holds a {type(content).__name__}, not a table of tensors; "
                "pass the model's own weights, not a training state."
            )
        self.tensors: Mapping[str, StoredTensor] = dict(content)
        self._check_extents()
        self._bytes = torch.from_file(str(path), shared=False, size=self._size, dtype=torch.uint8)

    def get(self, name: str) -> Tensor:
        """Return a view of a stored tensor; a copy of it where the file keeps it at an odd address."""
        stored = self.tensors[name]
        start = self._places[stored.storage.key][0] + stored.storage.start
        numbers = self._bytes[start : start + stored.storage.num_bytes]
        if start % stored.dtype.itemsize:
            numbers = numbers.clone()
        return numbers.view(stored.dtype).as_strided(
            stored.shape, stored.stride, numbers.view(stored.dtype).storage_offset() + stored.offset
        )

    def is_mapped(self, tensor: Tensor) -> bool:
        """Return whether a tensor of `get` lies on the mapped file."""
        return tensor.untyped_storage().data_ptr() == self._bytes.untyped_storage().data_ptr()

    def _check_extents(self) -> None:
        """Refuse tensors outside the file, and such as would take more memory than the file has bytes."""
        for name, tensor in self.tensors.items():
            storage = tensor.storage
            place = self._places.get(storage.key)
            is_inside = (
                place is not None
                and sum(place) <= self._size
                and 0 <= storage.start <= storage.start + storage.num_bytes <= place[1]
            )
            ends = (tensor.offset, *tensor.shape, *tensor.stride)
            last = tensor.offset + sum(
                (count - 1) * step for count, step in zip(tensor.shape, tensor.stride, strict=True)
            )
            size = tensor.dtype.itemsize
            fits = not tensor.num_bytes or (last + 1) * size <= storage.num_bytes
            if not is_inside or min(ends) < 0 or not fits or storage.num_bytes % size:
                raise CheckpointError(
                    f"{self._path} ({self._size:,} bytes) is damaged or cut off: tensor {name[:80]!r} of "
                    f"shape {str(list(tensor.shape))[:80]} is not inside it. Download it again."
                )
        declared = sum(tensor.num_bytes for tensor in self.tensors.values())
        if declared > MAX_SHARING * self._size + SMALL_BYTES:
            largest = max(self.tensors, key=lambda name: self.tensors[name].num_bytes)
            raise CheckpointError(
                f"{self._path} declares tensors of {declared:,} bytes but has {self._size:,} itself (the "
                f"largest is {largest[:80]!r}, shape {list(self.tensors[largest].shape)}); it is damaged, or "
                "made to fill the memory. Download it again."
            )


def describe_damage(path: Path, error: Exception) -> str:
    """Return the sentence for a weight file that its library cannot read."""
    reason = " ".join(str(error).split())[:120] or type(error).__name__
    return (
        f"{path} ({path.stat().st_size:,} bytes) is damaged or cut off: {reason}. "
        "Compare its size with the model's page and download it again."
    )


def _read_archive(path: Path) -> tuple[Any, dict[str, tuple[int, int]]]:
    """Return the content of a zip file, and start and length of each storage by its key."""
    _check_entry_count(path)
    places: dict[str, tuple[int, int]] = {}
    table = b""
    with path.open("rb") as file, zipfile.ZipFile(file) as archive:
        for entry in archive.infolist():
            # torch never compresses, because a compressed tensor could not be mapped.
            if entry.compress_type != zipfile.ZIP_STORED or entry.file_size != entry.compress_size:
                raise CheckpointError(
                    f"{path}: {entry.filename[:80]!r} is compressed, {entry.compress_size:,} bytes that "
                    f"would become {entry.file_size:,}; torch never writes such a file, so it is refused. "
                    "Get the weights as safetensors, or from their authors."
                )
            name = entry.filename.partition("/")[2]  # all stand in one folder, which is called anything
            if name.startswith("data/"):
                places[name.removeprefix("data/")] = _find_data(file, entry), entry.file_size
            elif name in ("data.pkl", "byteorder") and entry.file_size > MAX_PICKLE_BYTES:
                raise ValueError(f"{name} has {entry.file_size:,} bytes, at most {MAX_PICKLE_BYTES:,}")
            elif name == "data.pkl":
                table = archive.read(entry)
            elif name == "byteorder" and archive.read(entry) != b"little":
                raise ValueError("its numbers are in the byte order of another sort of machine")
    return _load_table(path, io.BytesIO(table))[0], places


def _find_data(file: BinaryIO, entry: zipfile.ZipInfo) -> int:
    """Return where the bytes of an entry begin: behind a header whose length only the header itself tells."""
    file.seek(entry.header_offset + 26)
    name_length, extra_length = struct.unpack("<HH", file.read(4))
    return int(entry.header_offset + 30 + name_length + extra_length)


def _check_entry_count(path: Path) -> None:
    """Refuse an archive of very many entries before they are listed."""
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - 2**16 - 256))  # a comment of up to 2**16 may stand behind
        tail = file.read()
    end = tail.rfind(b"PK\x05\x06")  # of the central directory; without one the file is cut off
    size = int.from_bytes(tail[end + 12 : end + 16], "little") if end >= 0 else 0
    wide = tail.rfind(b"PK\x06\x06")  # the same with 64-bit numbers
    if wide >= 0:
        size = max(size % 0xFFFFFFFF, int.from_bytes(tail[wide + 40 : wide + 48], "little"))
    count = size // 46  # an entry's least bytes
    if count > MAX_ARCHIVE_ENTRIES:
        raise CheckpointError(
            f"{path} is an archive of up to {count:,} files, at most {MAX_ARCHIVE_ENTRIES:,} are expected; "
            "it is not the file that its name says. Download it again."
        )


def _read_legacy(path: Path) -> tuple[Any, dict[str, tuple[int, int]]]:
    """Return the content of a file in the format before torch 1.6, and where its storages are."""
    with path.open("rb") as file:
        head = io.BytesIO(file.read(MAX_PICKLE_BYTES))
        if _load_table(path, head)[0] != _LEGACY_MAGIC:
            raise ValueError("it does not begin as a file of torch.save does")
        _protocol, system, (content, item_sizes), keys = (_load_table(path, head) for _ in range(4))
        if not system[0]["little_endian"]:
            raise ValueError("its numbers are in the byte order of another sort of machine")
        places: dict[str, tuple[int, int]] = {}
        place = head.tell()
        for key in keys[0]:
            file.seek(place)  # each storage begins with the count of its numbers
            (count,) = struct.unpack("<q", file.read(8))
            num_bytes = count * item_sizes[str(key)]
            if not 0 <= num_bytes <= path.stat().st_size - place - 8:
                raise ValueError(f"storage {key!r} of {num_bytes:,} bytes is not complete")
            places[str(key)] = place + 8, num_bytes
            place += 8 + num_bytes
    return content, places


def _load_table(path: Path, data: io.BytesIO) -> tuple[Any, dict[str, int]]:
    """Return the content of the next pickle, and the bytes of a number of each storage by its key."""
    start = data.tell()
    _check_pickle(path, data)
    unpickler = _TableUnpickler(io.BytesIO(data.getbuffer()[start : data.tell()]))
    return unpickler.load(), unpickler.item_sizes


def _check_pickle(path: Path, data: io.BytesIO) -> None:
    """Refuse a pickle that does anything but describe tensors; leaves ``data`` behind it."""
    for count, (operation, value, _) in enumerate(pickletools.genops(data)):
        argument: Any = value  # its type follows from the operation
        if count > MAX_PICKLE_OPERATIONS:
            raise ValueError(f"its table takes more than {MAX_PICKLE_OPERATIONS:,} operations")
        is_call = operation.name == "GLOBAL"
        if operation.name not in _OPERATIONS or (
            is_call and _find_call(*str(argument).split(" ", 1)) is None
        ):
            what = str(argument).replace(" ", ".")[:80] if is_call else operation.name
            raise CheckpointError(
                f"{path} holds something other than tensors ({what}): Python code would run if it were "
                "loaded, so it is refused. Get the weights as safetensors, or from their authors."
            )
        if operation.name == "LONG_BINPUT" and int(argument or 0) > MAX_PICKLE_OPERATIONS:
            raise ValueError(f"it numbers an object {argument:,}")  # the reader makes a list as long


class _TableUnpickler(pickle.Unpickler):
    """Reads a table of tensors; what it calls is ours and notes facts only.

    Attributes:
        item_sizes: bytes of a number of each storage, by its key.
    """

    def __init__(self, data: io.BytesIO) -> None:
        super().__init__(data, encoding="utf-8")
        self.item_sizes: dict[str, int] = {}

    def find_class(self, module: str, name: str) -> Any:
        found = _find_call(module, name)
        if found is None:
            raise pickle.UnpicklingError(f"{module}.{name} makes no tensor")
        return found

    def persistent_load(self, saved: Any) -> _Storage:
        kind, dtype, key, _, count, *view = saved
        if kind != "storage" or not isinstance(dtype, torch.dtype) or type(count) is not int or count < 0:
            raise pickle.UnpicklingError("a storage is not described as torch.save does")
        self.item_sizes[str(key)] = dtype.itemsize
        storage = _Storage(str(key), dtype, count * dtype.itemsize)
        if view and view[0] is not None:  # torch before 0.5: a part of a larger storage
            _, offset, length = view[0]
            if type(offset) is not int or type(length) is not int:
                raise pickle.UnpicklingError("a storage is not described as torch.save does")
            storage = replace(storage, start=offset * dtype.itemsize, num_bytes=length * dtype.itemsize)
        return storage


class _Table(OrderedDict[str, Any]):
    """What a state dictionary becomes."""

    def __setstate__(self, state: object) -> None:
        """Leave out the attribute that modules give theirs, the versions of their parts."""


class _Call(_Noted):
    """A function that a table may call."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self._function = function

    def __call__(self, *arguments: Any) -> Any:
        return self._function(*arguments)


def _find_call(module: str, name: str) -> Any:
    """Return what a name of a pickle stands for here, or ``None`` if no table of tensors needs it."""
    if module in ("torch", "torch.cuda") and name in _STORAGES:
        return _STORAGES[name]
    dtype = getattr(torch, name, None) if module == "torch" else None
    return dtype if isinstance(dtype, torch.dtype) else _CALLS.get(f"{module}.{name}")


def _note_tensor(
    storage: _Storage, offset: int, shape: tuple[int, ...], stride: tuple[int, ...], *_: object
) -> StoredTensor:
    numbers = (offset, *shape, *stride)
    if not isinstance(storage, _Storage) or not all(type(number) is int for number in numbers):
        raise pickle.UnpicklingError("a tensor is not described as torch.save does")
    return StoredTensor(storage, storage.dtype, offset, tuple(shape), tuple(stride))


def _note_typed_tensor(
    storage: _Storage,
    offset: int,
    shape: tuple[int, ...],
    stride: tuple[int, ...],
    requires_grad: bool,
    hooks: object,
    dtype: torch.dtype,
    *_: object,
) -> StoredTensor:
    return replace(_note_tensor(storage, offset, shape, stride), dtype=dtype)


def _note_parameter(tensor: StoredTensor, *_: object) -> StoredTensor:
    return tensor


def _note_subclass(call: Any, kind: object, arguments: tuple[Any, ...], *_: object) -> StoredTensor:
    noted = call(*arguments)
    if not isinstance(noted, StoredTensor):
        raise pickle.UnpicklingError("a parameter is not described as torch.save does")
    return noted


_CALLS: dict[str, Any] = {
    "collections.OrderedDict": _Call(_Table),
    "torch._utils._rebuild_tensor": _Call(_note_tensor),
    "torch._utils._rebuild_tensor_v2": _Call(_note_tensor),
    "torch._utils._rebuild_tensor_v3": _Call(_note_typed_tensor),
    "torch._utils._rebuild_parameter": _Call(_note_parameter),
    "torch._utils._rebuild_parameter_with_state": _Call(_note_parameter),
    "torch._tensor._rebuild_from_type_v2": _Call(_note_subclass),
    "torch.nn.parameter.Parameter": "a kind, never called",
    "torch.storage.UntypedStorage": torch.uint8,
}
