"""Measuring a GPU's memory: what is counted, and what is refused."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from glm_backend_cuda._bandwidth import REPEATS, copy_rate, measure
from key_words import containing

from glm_core import DeviceError

CPU = torch.device("cpu")


class Clock:
    """Says that each piece of work took a given time."""

    def __init__(self, *seconds: float) -> None:
        self.times = list(seconds)

    def measure_seconds(self, work: Callable[[], object]) -> float:
        """Do the work and say so."""
        work()
        return self.times.pop(0)


def test_a_copy_counts_what_it_reads_and_writes() -> None:
    """The rate is twice the buffer over the fastest copy."""
    clock = Clock(*[0.5] * (REPEATS - 1), 0.25)
    assert copy_rate(CPU, clock, 1000) == 8000
    assert clock.times == []


@pytest.mark.parametrize("device", ["cpu", "cuda:99"])
def test_other_devices_are_refused(device: str) -> None:
    """What is no NVIDIA GPU here is one sentence."""
    with pytest.raises(DeviceError, match=containing(repr(device), "NVIDIA GPU", "glm devices")):
        measure(device)
