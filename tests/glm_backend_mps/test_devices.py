"""Which Macs can be used, and what everybody else is told; without a Mac."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest
from glm_backend_mps._devices import Machine, compute_budget, describe_device, inspect_machine

GIB = 2**30


def mac(**facts: Any) -> Machine:
    """A current MacBook with 16 GiB, unless said otherwise."""
    usual: dict[str, Any] = {
        "system": "Darwin",
        "processor": "arm64",
        "macos": (15, 2),
        "memory_bytes": 16 * GIB,
        "available_bytes": 9 * GIB,
    }
    return Machine(**{**usual, **facts})


def test_apple_silicon_is_described() -> None:
    """Its GPU is available, computes in float16 first, and its budget is part of the machine's memory."""
    device = describe_device(mac())
    assert (device.name, device.available, device.reason) == ("mps", True, "")
    assert device.label == "Apple GPU, 17 GB shared with the processor, macOS 15.2"
    assert device.dtypes == ("float16", "bfloat16", "float32")
    assert device.memory_bytes == int(16 * GIB * 2 / 3)
    assert device.free_memory_bytes == 9 * GIB


def test_budget_is_what_metal_recommends() -> None:
    """Two thirds of small machines, three quarters of large ones; never more than is free."""
    assert compute_budget(8 * GIB) == int(8 * GIB * 2 / 3)
    assert compute_budget(64 * GIB) == 48 * GIB
    assert describe_device(mac(available_bytes=15 * GIB)).free_memory_bytes == int(16 * GIB * 2 / 3)


def test_old_macos_has_no_bfloat16() -> None:
    """bfloat16 came with macOS 14."""
    assert describe_device(mac(macos=(13, 6))).dtypes == ("float16", "float32")


@pytest.mark.parametrize(
    ("machine", "reason"),
    [
        (
            mac(system="Linux", macos=(0, 0)),
            "in Macs only, and this is Linux; choose --device cpu, or --device cuda",
        ),
        (mac(system="Windows", macos=(0, 0)), "in Macs only, and this is Windows"),
        (mac(processor="x86_64"), "no builds for Intel Macs since version 2.3; choose --device cpu"),
        (mac(macos=(12, 7)), "macOS 12.7 is too old; update to 13.0 or later, or choose --device cpu"),
    ],
)
def test_other_machines_are_told_why_in_one_sentence(machine: Machine, reason: str) -> None:
    """Each refusal says what is wrong and what to choose."""
    device = describe_device(machine)
    assert not device.available
    assert reason in device.reason
    assert "\n" not in device.reason


def test_this_machine_is_read() -> None:
    """Whatever runs this test has memory and a system."""
    machine = inspect_machine()
    assert machine.memory_bytes > machine.available_bytes > 0
    assert machine.system


def test_describing_imports_no_torch() -> None:
    """Asking what there is does not load torch."""
    code = (
        "import sys\n"
        "from glm_backend_mps import plugin\n"
        "plugin.describe_backend()\n"
        "print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
