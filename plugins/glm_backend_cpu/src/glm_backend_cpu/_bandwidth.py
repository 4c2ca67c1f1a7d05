"""How fast this machine reads its memory with the threads that decoding uses."""

from __future__ import annotations

import time
from collections.abc import Callable

import psutil
import torch

from glm_core import DeviceError

from ._native import native
from ._packed import reserve
from ._processor import usable_cores

BUFFER_BYTES = 512 * 2**20  # larger than any cache
SECONDS = 1.0


def measure(device: str) -> float:
    """Return bytes a second: the best of the passes over a large buffer that fit a second.

    Raises:
        DeviceError: another device than the processor.
    """
    if device != "cpu":
        raise DeviceError(f"{device!r} is not a device of the CPU backend; expected 'cpu'.")
    size = min(BUFFER_BYTES, psutil.virtual_memory().available // 4)
    buffer = reserve(size).fill_(1)
    library = native()
    if library is None:
        words = buffer[: size // 8 * 8].view(torch.int64)
        return size / _best(lambda: words.sum())
    before = library.threads
    library.threads = usable_cores()
    try:
        return size / _best(lambda: library.read(buffer.data_ptr(), size))
    finally:
        library.threads = before


def _best(read: Callable[[], object]) -> float:
    read()
    fastest, end = float("inf"), time.perf_counter() + SECONDS
    while (start := time.perf_counter()) < end:
        read()
        fastest = min(fastest, time.perf_counter() - start)
    return fastest
