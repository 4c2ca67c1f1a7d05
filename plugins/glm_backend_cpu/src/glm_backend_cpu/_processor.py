"""Describing this processor without importing torch."""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping
from pathlib import Path

import psutil

from glm_core.records import DeviceInfo

from ._native import find_native

# Instructions that multiply pairs of bfloat16; without them each is widened to float32 first.
BFLOAT16_FLAGS = ("amx_bf16", "avx512_bf16")
LABEL_FLAGS = ("amx_bf16", "avx512_bf16", "avx512_vnni", "avx512f", "avx_vnni", "avx2", "neon", "asimd")


def describe(cpuinfo: Path = Path("/proc/cpuinfo")) -> DeviceInfo:
    """Return the one device of this backend."""
    facts = read_cpuinfo(cpuinfo)
    flags = set((facts.get("flags") or facts.get("Features") or "").split())
    name = facts.get("model name") or platform.processor() or platform.machine()
    known = [flag for flag in LABEL_FLAGS if flag in flags]
    dtype, reason = choose_dtype(flags)
    memory = psutil.virtual_memory()
    return DeviceInfo(
        name="cpu",
        type="cpu",
        label=", ".join([name, f"{count_usable_cores()} cores", *known]),
        reason=find_native().message,
        memory_bytes=memory.total,
        free_memory_bytes=memory.available,
        dtypes=(dtype, *(other for other in ("float32", "bfloat16", "float16") if other != dtype)),
        dtype_reason=reason,
    )


def choose_dtype(flags: set[str]) -> tuple[str, str]:
    """Return the dtype that ``auto`` takes for these processor flags, and why."""
    native = next((flag for flag in BFLOAT16_FLAGS if flag in flags), None)
    if native:
        return "bfloat16", f"this processor multiplies it in hardware ({native}) and it halves memory traffic"
    return "float32", "this processor has no bfloat16 instructions, so 16-bit weights would be slower"


def count_usable_cores() -> int:
    """Return how many physical cores there are that this process may run on.

    Two threads of one core share its arithmetic units, so in matrix products more threads than cores only
    wait for each other.
    """
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    physical = psutil.cpu_count(logical=False) or allowed
    return max(1, min(allowed, physical))


def read_cpuinfo(path: Path) -> Mapping[str, str]:
    """Return keys and values of the first processor in Linux's ``/proc/cpuinfo``; empty elsewhere."""
    try:
        first = path.read_text("utf-8", errors="replace").split("\n\n", 1)[0]
    except OSError:
        return {}
    pairs = (line.partition(":") for line in first.splitlines() if ":" in line)
    return {key.strip(): value.strip() for key, _, value in pairs}
