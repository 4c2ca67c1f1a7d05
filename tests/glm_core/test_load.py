"""Tests of `glm_core.load` and `glm_core.resolve_model`, the functions that users import."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from fake_plugins import plugin
from glm_testing import host_of, null_backend
from key_words import containing

import glm_core
from glm_core import CheckpointError, ConfigError, DeviceError, ModelNotFoundError, routing
from glm_core.records import ModelCard


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Mapping[str, Path]:
    """`glm_core.load` and `glm_core.resolve_model` see the null plugin and a model with files."""
    files = tmp_path / "files"
    files.mkdir()
    cards = (ModelCard("small", "", path=files),)
    host = host_of(null=null_backend, models=plugin(describe_models=lambda: cards))
    monkeypatch.setattr(routing, "default_host", lambda: host)
    for name in ("GLM_DEVICE", "GLM_MODEL", "GLM_DTYPE", "GLM_QUANTIZE"):
        monkeypatch.delenv(name, raising=False)
    (tmp_path / "empty.toml").write_text("")
    monkeypatch.setenv("GLM_CONFIG", str(tmp_path / "empty.toml"))
    return {"files": files}


@pytest.mark.usefixtures("installed")
def test_load_returns_a_model_ready_to_chat() -> None:
    """The two lines of the README."""
    with glm_core.load("null", device="auto") as model:
        assert model.chat("你好 世界", history=[]) == ("你好 世界", [("你好 世界", "你好 世界")])


@pytest.mark.usefixtures("installed")
def test_load_leaves_to_the_environment_what_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every argument that is not given is as the settings say, and one that is given counts more."""
    monkeypatch.setenv("GLM_RUNTIME", "nope")
    with pytest.raises(ConfigError, match="'nope'"):
        glm_core.load("null")
    glm_core.load("null", runtime="null").close()
    monkeypatch.setenv("GLM_DEVICE", "tpu")
    with pytest.raises(DeviceError, match="tpu"):
        glm_core.load("null", runtime="auto")


def test_load_and_resolve_take_path_objects(installed: Mapping[str, Path]) -> None:
    """A directory may be given as a `Path`."""
    assert glm_core.resolve_model(installed["files"]) == installed["files"]
    with pytest.raises(CheckpointError, match="holds no config.json"):
        glm_core.load(installed["files"])


def test_resolve_model_gives_the_directory(installed: Mapping[str, Path]) -> None:
    """A known name stands for its directory."""
    assert glm_core.resolve_model("small") == installed["files"]


@pytest.mark.usefixtures("installed")
def test_resolve_model_refuses_a_model_without_files() -> None:
    """A name alone has no directory to return."""
    with pytest.raises(ModelNotFoundError, match=containing("model 'null'", "no files")):
        glm_core.resolve_model("null")


@pytest.mark.usefixtures("installed")
def test_revision_and_network_settings_reach_the_download(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the environment says of hub, revision and network holds for ``resolve_model`` too."""
    asked: list[dict[str, Any]] = []

    def download(repository: str, **options: Any) -> Path:
        asked.append(options)
        return Path("/cache")

    monkeypatch.setattr("glm_hub.download", download)
    monkeypatch.setenv("GLM_REVISION", "v1")
    monkeypatch.setenv("GLM_HUB", "modelscope")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    glm_core.resolve_model("a/b")
    assert asked == [{"revision": "v1", "offline": True, "hub": "modelscope"}]
