"""Triton's compiler takes the kernels for real GPUs, none of which is needed for that."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("triton", reason="Triton is not installed")
pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="Triton compiles on Linux only")

HELPER = Path(__file__).parent.parent / "support" / "compile_kernels.py"
LEAST_SHARED = {75: 64 * 1024, 86: 99 * 1024, 90: 227 * 1024, 120: 99 * 1024}
# The tensor cores' instruction: for matrices of decode steps and for those of prompts.
MULTIPLY = {86: ("mma.sync", "mma.sync"), 90: ("mma.sync", "wgmma")}


@pytest.fixture(scope="module")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """Kernel and architecture to what the compiler made of it."""
    if shutil.which("cc") is None and shutil.which("gcc") is None and shutil.which("clang") is None:
        pytest.skip("Triton wants a C compiler")
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    environment["TRITON_CACHE_DIR"] = str(tmp_path_factory.mktemp("triton"))
    done = subprocess.run(
        [sys.executable, str(HELPER), *map(str, LEAST_SHARED)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=250,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    result: dict[str, dict[str, Any]] = json.loads(done.stdout.splitlines()[-1])
    return result


@pytest.mark.parametrize("capability", LEAST_SHARED)
def test_every_kernel_compiles_and_fits_into_shared_memory(
    compiled: dict[str, dict[str, Any]], capability: int
) -> None:
    """For the oldest GPUs that we name, for data centres and for today's cards."""
    found = {name: made for name, made in compiled.items() if name.endswith(f"@{capability}")}
    assert len(found) >= 11
    for name, made in found.items():
        assert made["shared"] <= LEAST_SHARED[capability], name


@pytest.mark.parametrize("capability", MULTIPLY)
def test_products_run_on_tensor_cores_and_loads_do_not_wait(
    compiled: dict[str, dict[str, Any]], capability: int
) -> None:
    """One instruction for all decode steps; weights are copied ahead of their use."""
    for bits in ("int4", "int8"):
        for work, instruction in zip(("decode", "prefill"), MULTIPLY[capability], strict=True):
            ptx = compiled[f"{bits} {work}@{capability}"]["instructions"]
            assert instruction in ptx
            assert "cp.async" in ptx
    assert "wgmma" not in compiled[f"int4 decode@{capability}"]["instructions"]
