"""The kernel library at every level that this processor runs."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from glm_backend_cpu._native import LIBRARY, Native

# The sanitizer test runs these tests again in a process of its own, on a library built for it.
PATH = Path(os.environ.get("GLM_TEST_KERNELS") or LIBRARY)
LEVELS = Native(PATH).levels if PATH.is_file() else ()


@pytest.fixture(params=LEVELS or ("none",))
def native(request: pytest.FixtureRequest) -> Iterator[Native]:
    """The library forced to one level, on two threads."""
    yield from _forced(request.param)


@pytest.fixture
def fastest() -> Iterator[Native]:
    """The library at its fastest level, for tests of what lies around the kernels."""
    yield from _forced(LEVELS[0] if LEVELS else "none")


def _forced(level: str) -> Iterator[Native]:
    if not LEVELS:
        pytest.skip("the kernel library was not built: no C++ compiler was found at installation")
    library = Native(PATH)
    before = library.level, library.threads
    library.level, library.threads = level, 2
    yield library
    library.level, library.threads = before
