"""Settings of whoever runs the tests, which must not count."""

from __future__ import annotations

from pathlib import Path

import pytest


def forget_settings(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    """Take away the environment's settings, file of settings and language, for one test."""
    for name in ("MODEL", "DEVICE", "DTYPE", "QUANTIZE", "REVISION", "OFFLINE", "HUB", "PLUGINS", "DEBUG"):
        monkeypatch.delenv(f"GLM_{name}", raising=False)
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    (folder / "no_settings.toml").write_text("")
    monkeypatch.setenv("GLM_CONFIG", str(folder / "no_settings.toml"))
    monkeypatch.setenv("GLM_LANG", "en")
