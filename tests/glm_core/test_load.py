"""Tests of `glm_core.load` and `glm_core.resolve_model`, the functions that users import."""

from __future__ import annotations

import inspect
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from fake_plugins import plugin
from glm_testing import make_host, null_backend
from key_words import containing

import glm_core
from glm_core import (
    AdapterError,
    CheckpointError,
    ConfigError,
    DeviceError,
    ModelNotFoundError,
    RequestError,
    routing,
)
from glm_core.records import ModelCard


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Mapping[str, Path]:
    """`glm_core.load` and `glm_core.resolve_model` see the null plugin and a model with files."""
    files = tmp_path / "files"
    files.mkdir()
    cards = (ModelCard("small", "", path=files),)
    host = make_host(null=null_backend, models=plugin(describe_models=lambda: cards))
    monkeypatch.setattr(routing, "get_default_host", lambda: host)
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


WRONG_VALUES: Mapping[str, object] = {
    "an integer": 3,
    "a huge integer": 10**400,
    "an integer that cannot be printed": -(10**5000),
    "a float": 2.5,
    "nan": float("nan"),
    "a truth": True,
    "bytes": b"null",
    "a NUL": "nu\0ll",
    "half a character": "\udcff",
    "an endless text": "x" * 100_000,
    "an empty text": "",
    "a list": ["null"],
    "an empty list": [],
    "an object": {"a": 3},
    "a key that is no text": {3: "cpu"},
    "nested": {"a": {"b": "c"}},
    "a set": {"null"},
    "a function": print,
    "what cannot be shown": type("Shy", (), {"__repr__": lambda self: 1 / 0})(),
}
PARAMETERS = tuple(inspect.signature(glm_core.load).parameters)
NUMBERS = ("max_new_tokens", "max_length", "temperature", "top_p", "top_k", "repetition_penalty")


@pytest.mark.usefixtures("installed")
@pytest.mark.parametrize("value", WRONG_VALUES.values(), ids=WRONG_VALUES)
@pytest.mark.parametrize("name", PARAMETERS)
def test_any_value_of_any_parameter_is_taken_or_refused_in_one_line(name: str, value: Any) -> None:
    """Never a TypeError, AttributeError or the like from further in, and never called a plugin's fault."""
    error = None
    try:
        glm_core.load(**{"model": "null", "offline": True, name: value}).close()
    except glm_core.GlmError as raised:
        error = raised
    assert not isinstance(error, glm_core.PluginError)
    assert len(str(error)) < 900
    assert str(error).isprintable()


@pytest.mark.usefixtures("installed")
@pytest.mark.parametrize(
    ("name", "value", "kind"),
    [
        *((name, ["x"], ConfigError) for name in PARAMETERS),
        ("model", 3, ConfigError),
        ("adapters", {"a": 3}, AdapterError),
        ("adapters", {3: "a"}, AdapterError),
        ("adapters", [], ConfigError),
        ("device_map", {3: "null"}, ConfigError),
        ("device_map", {}, ConfigError),
        ("device_map", "", ConfigError),
        ("offline", 1, ConfigError),
        ("slots", 1.5, ConfigError),
        ("kv_memory", "much", ConfigError),
    ],
)
def test_wrong_type_names_the_parameter(name: str, value: Any, kind: type[glm_core.GlmError]) -> None:
    """The sentence says which parameter it is and what is expected."""
    with pytest.raises(kind, match=name.removesuffix("s") if name == "adapters" else name) as caught:
        glm_core.load(**{"model": "null", name: value})
    assert re.search("expected|must|choose", str(caught.value))


WRONG_QUESTIONS: list[tuple[dict[str, Any], type[glm_core.GlmError]]] = [
    ({"prompt": 3}, RequestError),
    ({"history": 3}, RequestError),
    ({"history": {"a": "b"}}, RequestError),
    ({"history": [("q", 3)]}, RequestError),
    ({"system": 3}, RequestError),
    ({"stop": 3}, RequestError),
    ({"stop": [3]}, RequestError),
    ({"seed": 2.5}, RequestError),
    ({"seed": 10**5000}, RequestError),
    ({"adapter": ["x"]}, AdapterError),
    ({"temperature": 10**400}, RequestError),
    ({"do_sample": 1}, RequestError),
    *(({name: value}, RequestError) for name in NUMBERS for value in ("x", ["1"], float("nan"))),
    *(({name: value}, RequestError) for name in NUMBERS for value in (-(10**400), -(10**5000))),
]


@pytest.mark.usefixtures("installed")
@pytest.mark.parametrize(("arguments", "kind"), WRONG_QUESTIONS)
def test_wrong_value_of_a_question_is_refused_in_one_line(
    arguments: dict[str, Any], kind: type[glm_core.GlmError]
) -> None:
    """The same holds for what the loaded model is asked."""
    with glm_core.load("null") as model, pytest.raises(kind) as caught:
        model.chat(**{"prompt": "hi", **arguments})
    assert len(str(caught.value)) < 700


@pytest.mark.usefixtures("installed")
@pytest.mark.parametrize(
    ("name", "directory"), [(3, "x"), ("a", 3), ("a", None), ("a", "nu\0ll"), (None, "x"), (["a"], "x")]
)
def test_adapter_that_is_added_later_is_checked_alike(name: Any, directory: Any) -> None:
    """``add_adapter`` takes what ``adapters=`` takes."""
    with glm_core.load("null") as model, pytest.raises(AdapterError, match="adapter"):
        model.add_adapter(name, directory)


@pytest.mark.usefixtures("installed")
@pytest.mark.parametrize("name", [3, b"null", ["null"]])
def test_resolve_model_refuses_what_is_no_name(name: Any) -> None:
    """Alike, in one sentence."""
    with pytest.raises(ConfigError, match="model"):
        glm_core.resolve_model(name)
