"""Measuring memory bandwidth; how fast this machine is, is no matter here."""

from __future__ import annotations

import pytest
import torch
from glm_backend_cpu import _bandwidth
from glm_backend_cpu._native import Native
from glm_backend_cpu.plugin import measure_bandwidth
from key_words import containing

from glm_core import DeviceError


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """A small buffer and a short time."""
    monkeypatch.setattr(_bandwidth, "BUFFER_BYTES", 8 * 2**20)
    monkeypatch.setattr(_bandwidth, "SECONDS", 0.01)


def test_bandwidth_is_positive_with_and_without_the_library(
    fastest: Native, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both ways give bytes a second, and the number of threads is put back."""
    monkeypatch.setattr(_bandwidth, "get_native", lambda: fastest)
    fastest.threads = 1
    assert measure_bandwidth("cpu") > 1e6
    assert fastest.threads == 1
    monkeypatch.setattr(_bandwidth, "get_native", lambda: None)
    assert measure_bandwidth("cpu") > 1e6


def test_other_devices_are_refused() -> None:
    """The backend measures its own device only."""
    with pytest.raises(DeviceError, match=containing("'cuda:0'", "'cpu'")):
        measure_bandwidth("cuda:0")


def test_every_level_reads_all_of_the_buffer(native: Native) -> None:
    """The sum of what was read changes with a byte at either end."""
    buffer = torch.zeros(2**20, dtype=torch.uint8)
    assert native.read(buffer.data_ptr(), buffer.numel()) == 0
    for place in (0, 2**20 - 1):
        buffer.zero_()
        buffer[place] = 1
        assert native.read(buffer.data_ptr(), buffer.numel()) != 0
