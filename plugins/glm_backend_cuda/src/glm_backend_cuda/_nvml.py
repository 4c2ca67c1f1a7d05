"""NVIDIA's management library through ctypes: which GPUs there are, without torch and without a context."""

from __future__ import annotations

import ctypes
import sys
from dataclasses import dataclass
from typing import Any, Protocol

SUCCESS = 0
NAME_BYTES = 96
LIBRARIES = ("nvml.dll",) if sys.platform == "win32" else ("libnvidia-ml.so.1",)


class NvmlError(Exception):
    """The library is not there, or refuses; says which."""


@dataclass(frozen=True)
class Gpu:
    """One GPU as the driver describes it.

    Attributes:
        name: of the product.
        uuid: such as ``GPU-8a...``.
        memory_bytes: total.
        free_memory_bytes: now.
        capability: compute capability, major and minor.
    """

    name: str
    uuid: str
    memory_bytes: int
    free_memory_bytes: int
    capability: tuple[int, int]


@dataclass(frozen=True)
class Driver:
    """What the driver says.

    Attributes:
        version: of the driver, such as ``560.35.03``.
        gpus: in the order of the PCI bus.
    """

    version: str
    gpus: tuple[Gpu, ...]


class Library(Protocol):
    """The functions of the management library, as ctypes offers them."""

    def __getattr__(self, name: str) -> Any:
        """Return a C function."""
        ...


class _Memory(ctypes.Structure):
    _fields_ = (("total", ctypes.c_ulonglong), ("free", ctypes.c_ulonglong), ("used", ctypes.c_ulonglong))


def load() -> Library:
    """Return the library of this machine.

    Raises:
        NvmlError: no NVIDIA driver is installed.
    """
    if sys.platform == "darwin":
        raise NvmlError("macOS has no NVIDIA driver")
    for name in LIBRARIES:
        try:
            return ctypes.CDLL(name)
        except OSError:
            continue
    raise NvmlError("no NVIDIA driver is installed")


def read(library: Library) -> Driver:
    """Ask the driver for its version and GPUs.

    Raises:
        NvmlError: it refuses, with its reason.
    """
    _call(library, "nvmlInit_v2")
    try:
        count = ctypes.c_uint()
        _call(library, "nvmlDeviceGetCount_v2", ctypes.byref(count))
        version = _text(library, "nvmlSystemGetDriverVersion")
        return Driver(version, tuple(_gpu(library, index) for index in range(count.value)))
    finally:
        library.nvmlShutdown()


def _gpu(library: Library, index: int) -> Gpu:
    handle = ctypes.c_void_p()
    _call(library, "nvmlDeviceGetHandleByIndex_v2", ctypes.c_uint(index), ctypes.byref(handle))
    memory, major, minor = _Memory(), ctypes.c_int(), ctypes.c_int()
    _call(library, "nvmlDeviceGetMemoryInfo", handle, ctypes.byref(memory))
    _call(library, "nvmlDeviceGetCudaComputeCapability", handle, ctypes.byref(major), ctypes.byref(minor))
    return Gpu(
        _text(library, "nvmlDeviceGetName", handle),
        _text(library, "nvmlDeviceGetUUID", handle),
        memory.total,
        memory.free,
        (major.value, minor.value),
    )


def _text(library: Library, function: str, *arguments: Any) -> str:
    buffer = ctypes.create_string_buffer(NAME_BYTES)
    _call(library, function, *arguments, buffer, ctypes.c_uint(NAME_BYTES))
    return buffer.value.decode("utf-8", "replace")


def _call(library: Library, function: str, *arguments: Any) -> None:
    status = getattr(library, function)(*arguments)
    if status != SUCCESS:
        raise NvmlError(f"the NVIDIA driver does not answer ({_reason(library, status)})")


def _reason(library: Library, status: int) -> str:
    function = library.nvmlErrorString
    try:
        function.restype = ctypes.c_char_p
        message = function(status)
    except (AttributeError, OSError):
        message = None
    return message.decode("utf-8", "replace") if message else f"error {status}"
