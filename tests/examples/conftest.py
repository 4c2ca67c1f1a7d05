"""The examples as their users get them: wheels, installed where nothing else of ours is."""

from __future__ import annotations

from pathlib import Path

import pytest
from packages import build_wheel, install

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.fixture(scope="session")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """A wheel of each example."""
    folder = tmp_path_factory.mktemp("wheels")
    return [build_wheel(path.parent, folder) for path in sorted(EXAMPLES.glob("*/pyproject.toml"))]


@pytest.fixture(scope="session")
def installed(wheels: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with all of them installed."""
    return install(wheels, tmp_path_factory.mktemp("installed"))
