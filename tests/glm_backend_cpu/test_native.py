"""Finding the kernel library and choosing its level."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from child_process import run
from glm_backend_cpu._native import CHOICES, ENVIRONMENT_NAME, Native, find

from glm_core import ConfigError

DESCRIBE = """
import sys
from glm_backend_cpu.plugin import describe_backend
print(describe_backend().devices[0].reason)
print([name for name in ("torch", "numpy") if name in sys.modules])
"""


def described(**environment: str) -> list[str]:
    """What a fresh process says of the kernels, and which heavy modules it imported for it."""
    done = run(sys.executable, "-c", DESCRIBE, environment=environment)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_levels_are_named_fastest_first(fastest: Native) -> None:
    """Every machine runs the portable kernels, and takes the fastest unless told otherwise."""
    assert fastest.levels[-1] == "portable"
    assert fastest.level == fastest.levels[0]
    assert set(fastest.levels) < set(CHOICES)


def test_a_level_can_be_forced(fastest: Native) -> None:
    """Each level that runs here can be chosen; the sentence for people names it."""
    for level in fastest.levels:
        chosen = find(level)
        assert chosen.native is not None
        assert chosen.native.level == level
        assert chosen.message == f"native kernels: {level}"


def test_unknown_levels_are_refused(fastest: Native) -> None:
    """A misspelt choice, and a level that this processor lacks, are the user's to mend."""
    with pytest.raises(ConfigError, match="GLM_CPU_KERNELS='avx1024' is unknown; expected one of auto, "):
        find("avx1024")
    with pytest.raises(ConfigError, match="GLM_CPU_KERNELS=neon: this processor does not run these kernels"):
        fastest.level = "neon"


def test_library_can_be_switched_off_missing_or_broken(tmp_path: Path) -> None:
    """Each gives no library and one sentence that says why."""
    assert find("off").native is None
    assert "off (GLM_CPU_KERNELS=off)" in find("off").message
    absent = find(path=tmp_path / "none.so")
    assert absent.native is None
    assert "where a C++ compiler is found" in absent.message
    broken = tmp_path / "broken.so"
    broken.write_bytes(b"no library")
    assert find(path=broken).native is None
    assert "not loadable" in find(path=broken).message


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
    assert described(**{ENVIRONMENT_NAME: "portable"}) == ["native kernels: portable", "[]"]
    assert described(**{ENVIRONMENT_NAME: "off"})[0].startswith("native kernels: off")


def test_number_of_threads_is_at_least_one(fastest: Native) -> None:
    """The library computes with the caller at least."""
    fastest.threads = 3
    assert fastest.threads == 3
    fastest.threads = 0
    assert fastest.threads == 1
