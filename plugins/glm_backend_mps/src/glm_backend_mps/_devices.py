"""Describing the GPU of this Mac without importing torch, or why there is none."""

from __future__ import annotations

import platform
from dataclasses import dataclass

import psutil

from glm_core.records import DeviceInfo

OLDEST_MACOS = (13, 0)  # the oldest whose GPU PyTorch uses
BFLOAT16_MACOS = (14, 0)  # Metal has no bfloat16 before
# The largest working set that Metal recommends: two thirds of the memory, of large machines three quarters.
LARGE_MACHINE_BYTES = 36 * 2**30
BUDGET_SHARE, LARGE_BUDGET_SHARE = 2 / 3, 3 / 4
INSTEAD = "choose --device cpu, or --device cuda on a machine with an NVIDIA GPU"


@dataclass(frozen=True)
class Machine:
    """The properties of a machine that decide whether its GPU can be used.

    Attributes:
        system: as ``platform.system()`` names it.
        processor: as ``platform.machine()`` names it.
        macos: its version; ``(0, 0)`` elsewhere.
        memory_bytes: total.
        available_bytes: what programs could take now.
    """

    system: str
    processor: str
    macos: tuple[int, int]
    memory_bytes: int
    available_bytes: int


def describe() -> DeviceInfo:
    """Return the one device of this backend."""
    return describe_device(inspect_machine())


def inspect_machine() -> Machine:
    """Return the properties of the machine that this runs on."""
    memory = psutil.virtual_memory()
    version = [int(part) for part in platform.mac_ver()[0].split(".")[:2] if part.isdigit()]
    major, minor = (*version, 0, 0)[:2]
    return Machine(platform.system(), platform.machine(), (major, minor), memory.total, memory.available)


def describe_device(machine: Machine) -> DeviceInfo:
    """Return the GPU of a machine; unavailable, with the reason, where PyTorch cannot use it."""
    reason = explain_refusal(machine)
    if reason:
        return DeviceInfo(
            "mps", "mps", "Apple GPU", available=False, reason=reason, dtypes=("float16", "float32")
        )
    budget = compute_budget(machine.memory_bytes)
    bfloat16 = ("bfloat16",) if machine.macos >= BFLOAT16_MACOS else ()
    version = ".".join(map(str, machine.macos))
    return DeviceInfo(
        name="mps",
        type="mps",
        label=f"Apple GPU, {machine.memory_bytes / 1e9:.0f} GB shared with the processor, macOS {version}",
        memory_bytes=budget,
        free_memory_bytes=min(budget, machine.available_bytes),
        dtypes=("float16", *bfloat16, "float32"),
        dtype_reason="the GPU multiplies it fastest, and ChatGLM's weights are published in it",
    )


def explain_refusal(machine: Machine) -> str:
    """Return why PyTorch cannot use this machine's GPU; empty if it can."""
    if machine.system != "Darwin":
        return f"Apple's GPUs are in Macs only, and this is {machine.system or 'another system'}; {INSTEAD}"
    if machine.processor != "arm64":
        return "PyTorch has no builds for Intel Macs since version 2.3; choose --device cpu"
    if machine.macos < OLDEST_MACOS:
        version, oldest = (".".join(map(str, one)) for one in (machine.macos, OLDEST_MACOS))
        return f"macOS {version} is too old; update to {oldest} or later, or choose --device cpu"
    return ""


def compute_budget(memory_bytes: int) -> int:
    """Return the bytes of a machine's memory that the GPU should use at most, as Metal recommends."""
    return int(memory_bytes * (BUDGET_SHARE if memory_bytes <= LARGE_MACHINE_BYTES else LARGE_BUDGET_SHARE))
