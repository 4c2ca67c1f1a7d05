"""Quantising a checkpoint streams: measured by the operating system on a gigabyte of weights."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc/self/status")

SUPPORT = Path(__file__).parents[2] / "support"
# First operations, their code, and the heap's own ways; the tests of loading allow the same.
SLACK_BYTES = 100 * 2**20
PROGRAM = """
import json, sys
from pathlib import Path
import psutil, torch
from peak_memory import peak_bytes
from glm_runtime_torch.quantize_job.job import quantize_checkpoint
from glm_core.records import ModelSource, QuantizationScheme, QuantizeJob

torch.ones(64, 64) @ torch.ones(64, 64)
before = psutil.Process().memory_info().rss
source, target, scheme, embeddings = sys.argv[1:]
job = QuantizeJob(Path(target), QuantizationScheme.parse(scheme), embeddings=embeddings == "True")
for _ in quantize_checkpoint(ModelSource("large", Path(source)), job):
    pass
written = sum(path.stat().st_size for path in Path(target).glob("*.safetensors"))
print(json.dumps({"before": before, "peak": peak_bytes(), "written": written}))
"""


@pytest.mark.parametrize(
    ("form", "scheme", "embeddings"),
    [("gigabyte", "int4", False), ("gigabyte", "int8", False), ("gigabyte_bin", "int4-g32", True)],
)
def test_peak_memory_is_the_largest_layer_and_a_tenth_of_the_result(
    form: str, scheme: str, embeddings: bool, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """Neither the source nor the result is ever in memory, from both file forms."""
    source = request.getfixturevalue(form)
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(source), str(tmp_path / "out"), scheme, str(embeddings)],
        env={**os.environ, "PYTHONPATH": str(SUPPORT)},
        capture_output=True,
        text=True,
        timeout=280,
        check=True,
    )
    measured = json.loads(done.stdout.splitlines()[-1])
    largest = 4 * 2048 * 2048 * 2
    assert measured["written"] > 0.25e9
    grown = measured["peak"] - measured["before"]
    assert grown <= largest + max(SLACK_BYTES, 0.1 * measured["written"])
    assert grown < 0.5 * measured["written"]
