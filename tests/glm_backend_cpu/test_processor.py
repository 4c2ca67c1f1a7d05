"""What the CPU backend says of a processor."""

from __future__ import annotations

import os
from pathlib import Path

import glm_backend_cpu.plugin
import pytest
from glm_backend_cpu._native import find_native
from glm_backend_cpu._placement import choose_num_threads, place_on_cpu
from glm_backend_cpu._processor import choose_dtype, count_usable_cores, describe, read_cpuinfo
from glm_runtime_torch.backends import quantize_model
from glm_testing.null_backend import NullModel

from glm_core.records import Placement, QuantizationScheme

SCHEMES = ("int8", "int4", "int4-g128", "int4-g64", "int4-g32")
CPUINFO = """processor\t: 0
model name\t: Test CPU 3000
flags\t\t: fpu avx2 avx512f avx512_bf16

processor\t: 1
model name\t: Other
"""


def test_processor_is_described(tmp_path: Path) -> None:
    """Name, cores and the interesting instructions are in the label; bfloat16 comes first here."""
    path = tmp_path / "cpuinfo"
    path.write_text(CPUINFO)
    device = describe(path)
    assert device.label == f"Test CPU 3000, {count_usable_cores()} cores, avx512_bf16, avx512f, avx2"
    assert device.dtypes == ("bfloat16", "float32", "float16")
    assert device.reason == find_native().message
    assert device.reason.startswith("native kernels: ")


@pytest.mark.parametrize(
    ("flags", "dtype", "reason"),
    [
        ({"avx512_bf16"}, "bfloat16", "avx512_bf16"),
        ({"amx_bf16", "avx512_bf16"}, "bfloat16", "amx_bf16"),
        ({"avx2"}, "float32", "no bfloat16 instructions"),
        (set(), "float32", "no bfloat16 instructions"),
    ],
)
def test_dtype_follows_the_instructions(flags: set[str], dtype: str, reason: str) -> None:
    """bfloat16 is taken only where the processor multiplies it itself, and the reason is given."""
    chosen, why = choose_dtype(flags)
    assert chosen == dtype
    assert reason in why


def test_machine_without_cpuinfo_is_described(tmp_path: Path) -> None:
    """Without /proc/cpuinfo the description falls back to what Python knows."""
    assert read_cpuinfo(tmp_path / "none") == {}
    assert describe(tmp_path / "none").dtypes[0] == "float32"


def test_cores_respect_the_affinity() -> None:
    """No more cores are used than the process may run on."""
    assert 1 <= count_usable_cores() <= len(os.sched_getaffinity(0))


def test_models_of_other_runtimes_are_declined() -> None:
    """Place and quantize answer None for a model that is not the torch runtime's."""
    model = NullModel("null")
    assert place_on_cpu(model, Placement(("cpu",))) is None
    assert quantize_model(model, QuantizationScheme(8)) is None
    assert glm_backend_cpu.plugin.describe_backend().schemes == SCHEMES


def test_small_models_run_on_one_thread() -> None:
    """Threads grow with the weights, from one to the number of cores."""
    assert choose_num_threads(6 * 2**20) == 1
    assert choose_num_threads(20 * 2**20) == 1
    assert choose_num_threads(2**33) == count_usable_cores()
