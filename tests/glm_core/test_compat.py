"""The calls of ChatGLM6Bpkg: same names and keywords, carried out by plugins."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Mapping
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from glm_testing import make_host, make_plugin, null_backend

import glm_core.compat as ChatGLM6Bpkg
from glm_core import ConfigError, PluginError, hookimpl
from glm_core.records import FrontendInfo, ModelMatch, ModelSource, OpenModel, Option

CALLS: list[tuple[str, Mapping[str, Any], str]] = []


def recording_frontend(name: str, *options: Option) -> ModuleType:
    """A frontend that asks one question and records what it was given."""

    @hookimpl
    def describe_frontend() -> FrontendInfo:
        return FrontendInfo(name, "records its call", run=f"recording_frontends:run_{name}", options=options)

    return make_plugin(describe_frontend=describe_frontend)


@pytest.fixture(autouse=True)
def plugins(monkeypatch: pytest.MonkeyPatch) -> None:
    """Recording frontends named cli, web and api over the null backend, whose models may be in memory."""
    CALLS.clear()
    module = ModuleType("recording_frontends")

    def run(name: str, open_model: OpenModel, options: Mapping[str, Any]) -> None:
        with open_model() as model:
            CALLS.append((name, dict(options), model.chat("hello")[0]))

    for name in ("cli", "web", "api"):
        setattr(module, f"run_{name}", lambda open_model, options, name=name: run(name, open_model, options))
    monkeypatch.setitem(sys.modules, "recording_frontends", module)

    @hookimpl
    def load_model(source: ModelSource) -> null_backend.NullModel | None:
        known = source.name == "null" or isinstance(source.model, SimpleNamespace)
        return null_backend.NullModel(source.name) if known else None

    @hookimpl
    def identify_model(source: ModelSource) -> ModelMatch | None:
        known = source.name == "null" or isinstance(source.model, SimpleNamespace)
        return ModelMatch("null", "of this test") if known else None

    backend = make_plugin(
        identify_model=identify_model,
        load_model=load_model,
        **{
            name: getattr(null_backend, name)
            for name in (
                *("describe_backend", "describe_models", "describe_runtime", "place", "chat_stream"),
            )
        },
    )
    host = make_host(
        null=backend,
        cli=recording_frontend("cli"),
        web=recording_frontend("web", Option("share", "", bool, False), Option("port", "", int, 7860)),
        api=recording_frontend("api"),
    )
    monkeypatch.setattr(ChatGLM6Bpkg, "get_default_host", lambda: host)
    monkeypatch.setenv("GLM_DEVICE", "null")


IN_MEMORY = SimpleNamespace(device="null")


def test_demos_and_server_chat_with_a_model_in_memory() -> None:
    """model= and tokenizer= reach the frontend as a model that answers."""
    ChatGLM6Bpkg.launch_cli_demo(model=IN_MEMORY, tokenizer="its tokenizer")
    ChatGLM6Bpkg.launch_web_demo(model=IN_MEMORY, tokenizer="its tokenizer", share=True)
    ChatGLM6Bpkg.launch_server(model=IN_MEMORY, tokenizer="its tokenizer", port=9000)
    assert CALLS == [
        ("cli", {}, "hello"),
        ("web", {"share": True, "inbrowser": True, "port": 7860}, "hello"),
        ("api", {"host": "127.0.0.1", "port": 9000, "workers": 1}, "hello"),
    ]


def test_demos_load_a_model_by_name() -> None:
    """model_name_or_path= is loaded as --model would be; trust_remote_code has no effect."""
    ChatGLM6Bpkg.launch_cli_demo(model_name_or_path="null", trust_remote_code=True)
    assert CALLS == [("cli", {}, "hello")]


def test_model_without_tokenizer_is_refused() -> None:
    """One of the two objects alone gives one clear sentence."""
    with pytest.raises(ConfigError, match="pass both model= and tokenizer="):
        ChatGLM6Bpkg.launch_web_demo(model=IN_MEMORY)


@pytest.mark.parametrize(
    ("call", "package"),
    [
        (lambda: ChatGLM6Bpkg.load_model_on_gpus("x", num_gpus=2), "glm-backend-cuda"),
        (lambda: ChatGLM6Bpkg.ptuning.ptuning(do_train=True), "glm-ptuning"),
        (lambda: ChatGLM6Bpkg.ptuning.load_ptuning_checkpoint("x", "y", pre_seq_len=8), "glm-ptuning"),
    ],
)
def test_missing_packages_are_named(monkeypatch: pytest.MonkeyPatch, call: Any, package: str) -> None:
    """A call whose package is not installed says which one to install."""
    monkeypatch.setattr("glm_core.candidates.metadata.entry_points", lambda **_: [])
    with pytest.raises(PluginError, match=f"pip install {package}"):
        call()


def test_missing_frontend_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """A demo whose frontend is not installed says which package to install."""
    monkeypatch.setattr(ChatGLM6Bpkg, "get_default_host", lambda: make_host(null=null_backend))
    with pytest.raises(PluginError, match="pip install glm-frontend-web"):
        ChatGLM6Bpkg.launch_web_demo(model_name_or_path="null")


def test_provided_calls_reach_their_package(monkeypatch: pytest.MonkeyPatch) -> None:
    """An installed package's function gets the caller's keywords."""
    seen: dict[str, Any] = {}
    point = SimpleNamespace(load=lambda: lambda *args, **kwargs: seen.update(kwargs, args=args))
    monkeypatch.setattr("glm_core.candidates.metadata.entry_points", lambda **_: [point])
    ChatGLM6Bpkg.load_model_on_gpus("path", num_gpus=4, device_map={"lm_head": 0})
    assert seen == {"args": ("path",), "num_gpus": 4, "device_map": {"lm_head": 0}}


def test_other_names_are_no_part_of_it() -> None:
    """A misspelt call is an AttributeError, as of any module, and not a missing package."""
    assert not hasattr(ChatGLM6Bpkg, "load_model_on_gpu")
    assert not hasattr(ChatGLM6Bpkg.ptuning, "train")


def test_keyword_names_are_those_of_the_original() -> None:
    """Every parameter that callers of the original could pass is still there."""
    demo = ["model_name_or_path", "trust_remote_code", "model", "tokenizer"]
    parameters = {
        name: list(inspect.signature(getattr(ChatGLM6Bpkg, name)).parameters)
        for name in ("launch_web_demo", "launch_cli_demo", "launch_server", "load_model_on_gpus")
    }
    assert parameters["launch_web_demo"][:4] == demo
    assert parameters["launch_cli_demo"] == demo
    assert parameters["launch_server"] == [*demo, "host", "port", "workers"]
    assert parameters["load_model_on_gpus"] == ["checkpoint_path", "num_gpus", "device_map", "kwargs"]
    assert list(inspect.signature(ChatGLM6Bpkg.ptuning.load_ptuning_checkpoint).parameters) == [
        "model_name_or_path",
        "ptuning_checkpoint",
        "pre_seq_len",
        "trust_remote_code",
        "quantization_bit",
    ]
