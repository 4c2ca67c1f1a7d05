"""Tests of the way from a model's name to its files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from fake_plugins import host_loading, plugin
from glm_testing import host_of

from glm_core import ModelNotFoundError
from glm_core.models import known_models, resolve
from glm_core.plugins import PluginHost
from glm_core.records import ModelCard, ModelSource


def host_knowing(*cards: ModelCard) -> PluginHost:
    """A host whose one plugin names these models."""
    return host_of(models=plugin(describe_models=lambda: cards))


@pytest.fixture
def downloads(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """Downloads that were asked for; nothing is downloaded."""
    asked: list[dict[str, Any]] = []

    def download(repository: str, **options: Any) -> Path:
        asked.append({"repository": repository, **options})
        return Path("/cache") / repository

    monkeypatch.setattr("glm_hub.download", download)
    return asked


def test_directory_wins_over_a_known_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, downloads: list[dict[str, Any]]
) -> None:
    """A directory in the current folder that is called like a known model is that model."""
    (tmp_path / "chatglm-6b").mkdir()
    monkeypatch.chdir(tmp_path)
    host = host_knowing(ModelCard("chatglm-6b", "", hub_id="THUDM/chatglm-6b"))
    assert resolve(host, "chatglm-6b") == ModelSource("chatglm-6b", tmp_path / "chatglm-6b")
    assert downloads == []


def test_checkpoint_directory_wins_over_an_installed_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A directory that holds a config.json wins over any name."""
    (tmp_path / "demo").mkdir()
    (tmp_path / "demo" / "config.json").write_text("{}")
    monkeypatch.chdir(tmp_path)
    assert resolve(host_knowing(ModelCard("demo", "", path=tmp_path)), "demo").path == tmp_path / "demo"


def test_unrelated_folder_does_not_hide_an_installed_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """``glm chat`` with no ``--model`` works in a project that has a folder called ``demo``."""
    (tmp_path / "demo").mkdir()
    (tmp_path / "files").mkdir()
    monkeypatch.chdir(tmp_path)
    host = host_knowing(ModelCard("demo", "", path=tmp_path / "files"))
    assert resolve(host, "demo") == ModelSource("demo", tmp_path / "files")


def test_tilde_is_the_home_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """``~`` in a path from a settings file, which no shell has expanded, is the home directory."""
    (tmp_path / "models").mkdir()
    monkeypatch.setenv("HOME", str(tmp_path))
    assert resolve(host_of(), "~/models").path == tmp_path / "models"


def test_file_is_handed_on(tmp_path: Path) -> None:
    """Some models are one file; whether this is one, the runtimes know."""
    file = tmp_path / "model.gguf"
    file.touch()
    assert resolve(host_of(), str(file)) == ModelSource(str(file), file)


def test_known_name_wins_over_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file that happens to be called like an installed model does not hide it."""
    (tmp_path / "demo").touch()
    (tmp_path / "files").mkdir()
    monkeypatch.chdir(tmp_path)
    host = host_knowing(ModelCard("demo", "", path=tmp_path / "files"))
    assert resolve(host, "demo") == ModelSource("demo", tmp_path / "files")


@pytest.mark.parametrize("name", ["", "  "])
def test_empty_name_is_refused(name: str) -> None:
    """``--model "$MODEL"`` with an unset variable must not mean the current directory."""
    with pytest.raises(ModelNotFoundError, match="name is empty"):
        resolve(host_of(), name)


def test_impossible_path_is_refused() -> None:
    """A name that the file system refuses to look up is not found, and nothing else happens."""
    with pytest.raises(ModelNotFoundError, match="cannot be looked up: .*too long"):
        resolve(host_of(), "x" * 5000)


@pytest.mark.parametrize("name", ["chatglm-6b", "ChatGLM", "glm"])
def test_known_name_and_aliases_mean_the_hub_id(name: str, downloads: list[dict[str, Any]]) -> None:
    """A card's name and each alias download the same repository, with what the user asked for."""
    card = ModelCard(
        "chatglm-6b", "", hub_id="THUDM/chatglm-6b", modelscope_id="Zhipu/C", aliases=("ChatGLM", "glm")
    )
    found = resolve(host_knowing(card), name, revision="v1", offline=True)
    assert found == ModelSource(name, Path("/cache/THUDM/chatglm-6b"))
    assert downloads == [
        {"repository": "THUDM/chatglm-6b", "revision": "v1", "offline": True, "hub": "huggingface"}
    ]


def test_other_hub_means_its_own_id(downloads: list[dict[str, Any]]) -> None:
    """On ModelScope a known model is looked up by its id there."""
    card = ModelCard("m", "", hub_id="a/b", modelscope_id="c/d")
    resolve(host_knowing(card), "m", hub="modelscope")
    assert [asked["repository"] for asked in downloads] == ["c/d"]


def test_model_that_only_the_other_hub_has_is_refused(downloads: list[dict[str, Any]]) -> None:
    """The message names the option that helps."""
    with pytest.raises(ModelNotFoundError, match="'m' is not on modelscope; .* with --hub huggingface"):
        resolve(host_knowing(ModelCard("m", "", hub_id="a/b")), "m", hub="modelscope")
    assert downloads == []


def test_installed_model_is_its_directory(tmp_path: Path) -> None:
    """A model that a package ships needs no download."""
    assert resolve(host_knowing(ModelCard("small", "", path=tmp_path)), "small").path == tmp_path


def test_installed_model_without_its_files_is_refused(tmp_path: Path) -> None:
    """A damaged installation is told apart from a damaged checkpoint."""
    host = host_knowing(ModelCard("demo", "", path=tmp_path / "gone"))
    with pytest.raises(ModelNotFoundError, match="files.*model 'demo'.*missing"):
        resolve(host, "demo")


def test_name_alone_can_be_a_model() -> None:
    """A model behind another server has a name and no files."""
    assert resolve(host_knowing(ModelCard("remote", "")), "remote") == ModelSource("remote", None)


def test_hub_id_is_downloaded(downloads: list[dict[str, Any]]) -> None:
    """An id that nobody describes goes to the chosen hub as it is."""
    found = resolve(host_of(), "THUDM/chatglm2-6b", hub="modelscope")
    assert found == ModelSource("THUDM/chatglm2-6b", Path("/cache/THUDM/chatglm2-6b"))
    assert downloads[0]["hub"] == "modelscope"


@pytest.mark.parametrize("name", ["./a/b", "/a/b", "a/b/c", "a/b--c", "a/..", "a/b.", "a/模型", "-a/b", "a/"])
def test_path_with_a_mistake_is_no_hub_id(name: str, downloads: list[dict[str, Any]]) -> None:
    """What the hub would refuse as an id is not sent there."""
    with pytest.raises(ModelNotFoundError, match="is no directory, no known name and no hub id"):
        resolve(host_of(), name)
    assert downloads == []


def test_unknown_name_gets_a_suggestion_and_the_known_ones() -> None:
    """A typing mistake is met with the nearest name and the list of all."""
    host = host_knowing(ModelCard("chatglm-6b", ""), ModelCard("null", ""))
    with pytest.raises(ModelNotFoundError) as caught:
        resolve(host, "ChatGLM6B")
    assert str(caught.value) == (
        "model 'ChatGLM6B' is no directory, no known name and no hub id. Did you mean 'chatglm-6b'? "
        "Known names: chatglm-6b, null. Pass a directory, one of these, or an id such as THUDM/chatglm-6b."
    )


def test_missing_demo_names_its_package() -> None:
    """The model that runs when none is named comes in a package of its own."""
    with pytest.raises(ModelNotFoundError, match="not installed: pip install glm-model-demo, or"):
        resolve(host_of(), "demo")


def test_unknown_name_mentions_plugins_that_are_not_used() -> None:
    """The plugin that knows the name may be installed and broken."""
    host = host_loading(lambda: 1 / 0, name="models")
    with pytest.raises(
        ModelNotFoundError, match=r"\(Installed, but not used: models; glm plugins says why.\)$"
    ):
        resolve(host, "some-model")


def test_known_models_of_all_plugins_are_sorted() -> None:
    """The order of plugins does not show."""
    first = plugin(describe_models=lambda: (ModelCard("z", ""), ModelCard("b", "")))
    second = plugin(describe_models=lambda: (ModelCard("a", ""),))
    assert [card.name for card in known_models(host_of(first=first, second=second))] == ["a", "b", "z"]
