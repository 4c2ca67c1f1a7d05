"""Tests of the memory that a process took."""

from __future__ import annotations

from pathlib import Path

import pytest
from glm_jobs.bench.memory import read_peak_memory


def test_peak_is_the_high_water_mark(tmp_path: Path) -> None:
    """Linux says it in kB, among much else."""
    status = tmp_path / "status"
    status.write_text("Name:\tpython\nVmPeak:\t 9000 kB\nVmHWM:\t  2048 kB\nVmRSS:\t 1024 kB\n")
    assert read_peak_memory(status) == 2048 * 1024


def test_peak_is_known_without_that_file(tmp_path: Path) -> None:
    """Elsewhere the C library says it; a Python process takes more than 4 MB and less than 1 TB."""
    pytest.importorskip("resource")
    peak = read_peak_memory(tmp_path / "missing")
    assert peak is not None
    assert 4e6 < peak < 1e12
