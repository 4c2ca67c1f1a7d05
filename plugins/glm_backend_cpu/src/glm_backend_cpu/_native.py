"""The native kernel library: loading it, choosing its instruction level, its C functions and structures.

Nothing here imports torch, so `describe_backend` can say which kernels there are.
"""

from __future__ import annotations

import ctypes
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from glm_core import DeviceError

LIBRARY = Path(__file__).with_name("_kernels.so")
ABI_VERSION = 1  # of kernels.h; a library from other sources would read structures wrongly

_POINTER, _LONG, _INT, _FLOAT = ctypes.c_void_p, ctypes.c_int64, ctypes.c_int32, ctypes.c_float


class NativeMatrix(ctypes.Structure):
    """A packed matrix, as ``GlmMatrix`` in ``native/kernels.h``."""

    _fields_ = (
        ("weight", _POINTER),
        ("scale", _POINTER),
        ("bias", _POINTER),
        ("out_features", _LONG),
        ("in_features", _LONG),
        ("padded_in", _LONG),
        ("format", _INT),
        ("group_size", _INT),
        ("scale_type", _INT),
        ("reserved", _INT),
    )


class NativeAttention(ctypes.Structure):
    """One decode attention, as ``GlmAttention`` in ``native/kernels.h``."""

    _fields_ = (
        *((name, _POINTER) for name in ("q", "k", "v")),
        *((name, _LONG) for name in ("q_row", "q_head", "k_row", "k_head", "v_row", "v_head")),
        *((name, _POINTER) for name in ("cos", "sin", "keys", "values")),
        *((name, _LONG) for name in ("key_slot", "key_group", "value_slot", "value_group")),
        *((name, _POINTER) for name in ("slots", "lengths", "out")),
        *((name, _LONG) for name in ("B", "N", "G", "H", "R")),
        ("dtype", _INT),
        ("reserved", _INT),
    )


class NativeNorm(ctypes.Structure):
    """One normalisation, as ``GlmNorm`` in ``native/kernels.h``."""

    _fields_ = (
        *((name, _POINTER) for name in ("x", "residual", "weight", "bias", "y")),
        *((name, _LONG) for name in ("x_stride", "residual_stride", "y_stride", "M", "D")),
        ("alpha", _FLOAT),
        ("eps", _FLOAT),
        ("dtype", _INT),
        ("rms", _INT),
    )


# Pointers are declared as integers of their size: ctypes converts those fastest.
_SIGNATURES: Mapping[str, tuple[type | None, tuple[type, ...]]] = {
    "glm_abi_version": (_INT, ()),
    "glm_level": (ctypes.c_char_p, (_INT,)),
    "glm_select": (_INT, (ctypes.c_char_p,)),
    "glm_selected": (ctypes.c_char_p, ()),
    "glm_set_threads": (None, (_INT,)),
    "glm_get_threads": (_INT, ()),
    "glm_packed_bytes": (_LONG, (_INT, _LONG, _LONG)),
    "glm_pack": (None, (_INT, _POINTER, _LONG, _LONG, _LONG, _POINTER)),
    "glm_linear": (_INT, (_POINTER, _POINTER, _LONG, _POINTER, _LONG, _LONG, _INT, _INT, _INT)),
    "glm_embed": (None, (_POINTER, _POINTER, _LONG, _POINTER, _INT)),
    "glm_norm": (None, (_POINTER,)),
    "glm_decode_attention": (_INT, (_POINTER,)),
    "glm_read": (ctypes.c_uint64, (_POINTER, _LONG)),
}


class Native:
    """The loaded library.

    Its functions may be called from any number of threads; inside, one job runs at a time. They
    release the interpreter lock while they compute.

    Args:
        path: of the shared library.

    Raises:
        OSError: it does not load, or is of another version.
    """

    def __init__(self, path: Path) -> None:
        library = ctypes.CDLL(str(path))
        try:
            for name, (result, arguments) in _SIGNATURES.items():
                function = getattr(library, name)
                function.restype, function.argtypes = result, arguments
        except AttributeError as error:
            raise OSError(f"{path} is of another version ({error})") from error
        if library.glm_abi_version() != ABI_VERSION:
            raise OSError(f"{path} is of another version")
        self.packed_bytes = library.glm_packed_bytes
        self.pack = library.glm_pack
        self.linear = library.glm_linear
        self.embed = library.glm_embed
        self.norm = library.glm_norm
        self.decode_attention = library.glm_decode_attention
        self.read = library.glm_read
        self._library = library

    @property
    def levels(self) -> tuple[str, ...]:
        """Names of the instruction levels that run on this processor, fastest first."""
        names: list[str] = []
        while name := self._library.glm_level(len(names)):
            names.append(name.decode())
        return tuple(names)

    @property
    def level(self) -> str:
        """The level that all models of this process use; packed weights have the same form for each level."""
        name: bytes = self._library.glm_selected()
        return name.decode()

    @level.setter
    def level(self, name: str) -> None:
        if not self._library.glm_select(name.encode()):
            raise DeviceError(
                f"--kernels {name}: this processor does not run these kernels; it runs "
                f"{', '.join(self.levels)}."
            )

    @property
    def threads(self) -> int:
        """The number of threads that compute, with the one that calls."""
        return int(self._library.glm_get_threads())

    @threads.setter
    def threads(self, count: int) -> None:
        self._library.glm_set_threads(count)


@dataclass(frozen=True)
class NativeState:
    """What loading the library gave.

    Attributes:
        native: the library, or ``None``.
        message: one sentence for people: which kernels, or why none.
    """

    native: Native | None
    message: str


def load_native(path: Path = LIBRARY) -> NativeState:
    """Load the library, if it was built and suits this processor."""
    if not path.is_file():
        return NativeState(
            None,
            "native kernels: none; they are built at installation where a C++ compiler is found. "
            "torch's own are used",
        )
    try:
        native = Native(path)
    except OSError as error:
        return NativeState(None, f"native kernels: not loadable ({error}); torch's own are used")
    return NativeState(native, f"native kernels: {native.level}")


@cache
def find_native() -> NativeState:
    """Return what loading the library gave; it is loaded once in a process."""
    return load_native()


def get_native() -> Native | None:
    """Return the library of this process, or ``None`` where there are only torch's own kernels."""
    return find_native().native


def list_kernel_choices() -> tuple[str, ...]:
    """Return what ``--kernels`` may choose here: the library or torch's own, or one level of the library."""
    library = get_native()
    return ("native", "torch", *(() if library is None else library.levels))
