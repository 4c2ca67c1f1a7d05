"""What the tests of the commands share."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture(autouse=True)
def no_settings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The settings and locale of whoever runs the tests do not count."""
    for name in ("MODEL", "DEVICE", "DTYPE", "QUANTIZE", "REVISION", "OFFLINE", "HUB", "PLUGINS", "DEBUG"):
        monkeypatch.delenv(f"GLM_{name}", raising=False)
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    (tmp_path / "no_settings.toml").write_text("")
    monkeypatch.setenv("GLM_CONFIG", str(tmp_path / "no_settings.toml"))
    monkeypatch.setenv("GLM_LANG", "en")
