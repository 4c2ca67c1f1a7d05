"""Asking NVIDIA's management library which GPUs there are, through ctypes.

Torch could say it too, but importing it takes seconds, and its first question takes GPU memory for a context.
"""

from __future__ import annotations

import ctypes
import sys
from dataclasses import dataclass
from typing import Any, Protocol

SUCCESS = 0
NAME_BYTES = 96  # the longest text that nvml.h promises (NVML_DEVICE_NAME_V2_BUFFER_SIZE)
LIBRARIES = ("nvml.dll",) if sys.platform == "win32" else ("libnvidia-ml.so.1",)


class NvmlError(Exception):
    """The management library is missing or answers with an error; the message says which."""


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
    """The driver and its GPUs.

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
        NvmlError: it answers with an error.
    """
    _call(library, "nvmlInit_v2")
    try:
        count = ctypes.c_uint()
        _call(library, "nvmlDeviceGetCount_v2", ctypes.byref(count))
        version = _read_text(library, "nvmlSystemGetDriverVersion")
        return Driver(version, tuple(_read_gpu(library, index) for index in range(count.value)))
    finally:
        library.nvmlShutdown()


def _read_gpu(library: Library, index: int) -> Gpu:
    handle = ctypes.c_void_p()
    _call(library, "nvmlDeviceGetHandleByIndex_v2", ctypes.c_uint(index), ctypes.byref(handle))
    memory, major, minor = _Memory(), ctypes.c_int(), ctypes.c_int()
    _call(library, "nvmlDeviceGetMemoryInfo", handle, ctypes.byref(memory))
    _call(library, "nvmlDeviceGetCudaComputeCapability", handle, ctypes.byref(major), ctypes.byref(minor))
    return Gpu(
        _read_text(library, "nvmlDeviceGetName", handle),
        _read_text(library, "nvmlDeviceGetUUID", handle),
        memory.total,
        memory.free,
        (major.value, minor.value),
    )


def _read_text(library: Library, function: str, *arguments: Any) -> str:
    buffer = ctypes.create_string_buffer(NAME_BYTES)
    _call(library, function, *arguments, buffer, ctypes.c_uint(NAME_BYTES))
    return buffer.value.decode("utf-8", "replace")


def _call(library: Library, function: str, *arguments: Any) -> None:
    status = getattr(library, function)(*arguments)
    if status != SUCCESS:
        raise NvmlError(f"the NVIDIA driver does not answer ({_explain_status(library, status)})")


def _explain_status(library: Library, status: int) -> str:
    function = library.nvmlErrorString
    try:
        function.restype = ctypes.c_char_p
        message = function(status)
    except (AttributeError, OSError):
        message = None
    return message.decode("utf-8", "replace") if message else f"error {status}"
