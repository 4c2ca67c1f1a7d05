"""Measuring how fast this machine reads its memory with the threads that decoding uses."""

from __future__ import annotations

import time
from collections.abc import Callable

import psutil
import torch

from glm_core import DeviceError

from ._native import get_native
from ._packed import reserve
from ._processor import count_usable_cores

BUFFER_BYTES = 512 * 2**20  # larger than any cache
SECONDS = 1.0  # long enough for tens of passes, short enough for a person who waits


def measure(device: str) -> float:
    """Read a large buffer again and again for a second, and return bytes a second of the fastest pass.

    Raises:
        DeviceError: another device than the processor.
    """
    if device != "cpu":
        raise DeviceError(f"{device!r} is not a device of the CPU backend; expected 'cpu'.")
    # A quarter of what is free at most, so that measuring never makes other programs swap.
    size = min(BUFFER_BYTES, psutil.virtual_memory().available // 4)
    buffer = reserve(size).fill_(1)
    library = get_native()
    if library is None:
        words = buffer[: size // 8 * 8].view(torch.int64)
        return size / _measure_shortest(lambda: words.sum())
    before = library.threads
    library.threads = count_usable_cores()
    try:
        return size / _measure_shortest(lambda: library.read(buffer.data_ptr(), size))
    finally:
        library.threads = before


def _measure_shortest(read: Callable[[], object]) -> float:
    read()  # the first pass brings the pages in
    # The fastest and not the mean: whatever else runs on the machine only makes a pass longer.
    fastest, end = float("inf"), time.perf_counter() + SECONDS
    while (start := time.perf_counter()) < end:
        read()
        fastest = min(fastest, time.perf_counter() - start)
    return fastest
