"""Finding the kernel library and choosing its level."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from child_process import run
from glm_backend_cpu._kernel_set import NativeKernels
from glm_backend_cpu._native import Native, load_native
from glm_backend_cpu._placement import choose_kernels
from glm_backend_cpu._torch_layers import TorchKernels
from glm_backend_cpu.plugin import describe_backend

from glm_core import DeviceError

DESCRIBE = """
import sys
from glm_backend_cpu.plugin import describe_backend
print(describe_backend().devices[0].reason)
print([name for name in ("torch", "numpy") if name in sys.modules])
"""


def described() -> list[str]:
    """What a fresh process says of the kernels, and which heavy modules it imported for it."""
    done = run(sys.executable, "-c", DESCRIBE)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_levels_are_named_fastest_first(fastest: Native) -> None:
    """Every machine runs the portable kernels, and takes the fastest unless told otherwise."""
    assert fastest.levels[-1] == "portable"
    assert fastest.level == fastest.levels[0]


def test_a_level_can_be_chosen(fastest: Native) -> None:
    """Each level that runs here, and ``native`` the fastest again; torch's own need no library."""
    for level in fastest.levels:
        assert isinstance(choose_kernels(level, torch.bfloat16), NativeKernels)
        assert fastest.level == level
    for choice in ("native", "auto"):
        choose_kernels(choice, torch.bfloat16)
        assert fastest.level == fastest.levels[0]
    assert isinstance(choose_kernels("torch", torch.bfloat16), TorchKernels)


def test_a_level_that_the_processor_lacks_is_refused(fastest: Native) -> None:
    """Core refuses it already, because it is not among those that are described."""
    assert describe_backend().kernels == ("native", "torch", *fastest.levels)
    with pytest.raises(DeviceError, match="--kernels neon: .*portable"):
        fastest.level = "neon"


def test_a_library_that_is_missing_or_broken_is_not_used(tmp_path: Path) -> None:
    """Each gives no library and one sentence that says why."""
    absent = load_native(path=tmp_path / "none.so")
    assert absent.native is None
    assert "where a C++ compiler is found" in absent.message
    broken = tmp_path / "broken.so"
    broken.write_bytes(b"no library")
    assert load_native(path=broken).native is None
    assert "not loadable" in load_native(path=broken).message


def test_a_library_of_another_version_is_not_used(tmp_path: Path) -> None:
    """One that lacks a function is not called."""
    other = Path(sys.modules["_ctypes"].__file__ or "")
    if not other.is_file():
        pytest.skip("this Python has no shared library beside it to try")
    with pytest.raises(OSError, match="another version"):
        Native(other)


def test_description_names_the_kernels_without_torch(fastest: Native) -> None:
    """`glm devices` says which kernels there are, in a process that imported nothing heavy."""
    assert described() == [f"native kernels: {fastest.levels[0]}", "[]"]


def test_number_of_threads_is_at_least_one(fastest: Native) -> None:
    """The library computes with the caller at least."""
    fastest.threads = 3
    assert fastest.threads == 3
    fastest.threads = 0
    assert fastest.threads == 1
