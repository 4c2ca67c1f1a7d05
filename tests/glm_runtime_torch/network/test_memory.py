"""Loading never holds two copies of the weights, measured by the operating system."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from tiny_models import tiny_checkpoint

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc/self/status")

PROGRAM = Path(__file__).parents[2] / "support" / "peak_memory.py"
# What loading allocates besides weights: first operations, their code, and temporaries of a few megabytes.
SLACK_BYTES = 100 * 2**20


def measure(*arguments: str) -> dict[str, int]:
    done = subprocess.run(
        [sys.executable, str(PROGRAM), *arguments], capture_output=True, text=True, timeout=280, check=True
    )
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize("form", ["gigabyte", "gigabyte_bin"])
@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_a_gigabyte_loads_in_at_most_1_15_times_its_size(
    form: str, dtype: str, request: pytest.FixtureRequest
) -> None:
    """Peak resident memory of loading is at most 1.15 times the loaded weights, from both file forms."""
    measured = measure(str(request.getfixturevalue(form)), dtype)
    assert measured["loaded"] > 1e9
    assert measured["peak"] - measured["before"] <= 1.15 * measured["loaded"]


@pytest.mark.parametrize("scheme", ["int8", "int4"])
def test_quantising_while_loading_needs_the_result_only(gigabyte: Path, scheme: str) -> None:
    """With --quantize, peak memory is the quantised model and small temporaries."""
    measured = measure(str(gigabyte), "bfloat16", scheme)
    assert measured["peak"] - measured["before"] <= measured["loaded"] + SLACK_BYTES


def test_a_tiny_checkpoint_leaves_no_peak_behind(tmp_path: Path) -> None:
    """For a tiny model the process as a whole peaks at no more than 1.15 times what it ends with."""
    measured = measure(str(tiny_checkpoint(tmp_path / "model")), "float32")
    assert measured["peak"] <= 1.15 * measured["after"]
