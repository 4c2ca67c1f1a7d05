"""What the tests of the commands share."""

from __future__ import annotations

from pathlib import Path

import pytest
from user_settings import forget_settings


@pytest.fixture(autouse=True)
def no_settings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The settings and locale of whoever runs the tests do not count."""
    forget_settings(monkeypatch, tmp_path)
