"""Measuring how fast a GPU moves bytes of its own memory."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import torch

from glm_core import DeviceError

BUFFER_BYTES = 2**30  # larger than any cache
REPEATS = 12  # the fastest counts: the first copies may run while the GPU still raises its clock


class Timer(Protocol):
    """Measures how long work on a device takes."""

    def measure_seconds(self, work: Callable[[], object]) -> float:
        """Do the work once and return its duration."""
        ...


class EventTimer:
    """Measures with events of the device itself, so that time spent in Python does not count.

    Args:
        device: a CUDA device.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device

    def measure_seconds(self, work: Callable[[], object]) -> float:
        """Implement `Timer.measure_seconds`."""
        with torch.cuda.device(self._device):
            start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            start.record()
            work()
            end.record()
            end.synchronize()
            return start.elapsed_time(end) / 1e3


def measure(device: str) -> float:
    """Return bytes a second that a copy reads and writes together; weights are read at about that rate.

    Raises:
        DeviceError: there is no such GPU.
    """
    place = torch.device(device)
    if (
        place.type != "cuda"
        or not torch.cuda.is_available()
        or (place.index or 0) >= torch.cuda.device_count()
    ):
        raise DeviceError(
            f"{device!r} is not an NVIDIA GPU that this PyTorch sees; glm devices lists those that there are."
        )
    free, _ = torch.cuda.mem_get_info(place)
    return copy_rate(place, EventTimer(place), min(BUFFER_BYTES, free // 4))


def copy_rate(device: torch.device, timer: Timer, size: int) -> float:
    """Return bytes a second read and written by the fastest of some copies of ``size`` bytes."""
    source, target = (torch.ones(size, dtype=torch.uint8, device=device) for _ in range(2))
    target.copy_(source)  # the first launch is slower, so it is not measured
    return 2 * size / min(timer.measure_seconds(lambda: target.copy_(source)) for _ in range(REPEATS))
