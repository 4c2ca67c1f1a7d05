"""``GET /v1/models``, and which model a request gets."""

from __future__ import annotations

import pytest
from api_support import ScriptedRuntime, Served, serving
from glm_frontend_api.service import shorten_model_name


def test_base_and_adapters_are_listed(runtime: ScriptedRuntime) -> None:
    """Each adapter is a model of its own, called MODEL:ADAPTER."""
    runtime.adapters = ("ads", "poet")
    with serving(runtime.model) as served:
        listed = served.http.get("/v1/models").json()
    assert listed["object"] == "list"
    assert [model["id"] for model in listed["data"]] == ["scripted", "scripted:ads", "scripted:poet"]
    assert {model["context_length"] for model in listed["data"]} == {2048}


def test_one_model_is_found(served: Served) -> None:
    """A name and the alias give the card; another name is OpenAI's 404."""
    card = served.http.get("/v1/models/scripted").json()
    assert card["id"] == "scripted"
    assert served.http.get("/v1/models/default").json() == card
    answer = served.http.get("/v1/models/gpt-4o")
    assert answer.status_code == 404
    assert answer.json()["error"]["code"] == "model_not_found"


def test_names_with_slashes_are_found(runtime: ScriptedRuntime) -> None:
    """A hub id works in the path, escaped or not."""
    runtime.name = "THUDM/chatglm-6b"
    with serving(runtime.model) as served:
        for path in ("THUDM/chatglm-6b", "THUDM%2Fchatglm-6b"):
            assert served.http.get(f"/v1/models/{path}").json()["id"] == "THUDM/chatglm-6b"


@pytest.mark.parametrize(
    ("adapters", "model", "adapter"),
    [
        (("ads", "poet"), "scripted", None),
        (("ads", "poet"), "scripted:poet", "poet"),
        (("ads", "poet"), "default", None),
        (("ads",), "default", "ads"),
        (("ads",), "scripted", None),
    ],
)
def test_model_chooses_the_adapter(
    runtime: ScriptedRuntime, adapters: tuple[str, ...], model: str, adapter: str | None
) -> None:
    """A name chooses exactly one; ``default`` and POST / take the only adapter, else the base."""
    runtime.adapters = adapters
    with serving(runtime.model) as served:
        answer = served.chat("say hello", model=model).json()
        served.ask_original("say hello")
    assert answer["model"] == ("scripted" if adapter is None else f"scripted:{adapter}")
    assert runtime.requests[0].adapter == adapter
    assert runtime.requests[1].adapter == (adapters[0] if len(adapters) == 1 else None)


@pytest.mark.parametrize("model", ["gpt-4o", "scripted:unknown", "", "default:ads", "scripted:"])
def test_unknown_model_is_404_and_names_those_there_are(served: Served, model: str) -> None:
    """An unknown model or adapter is refused; nothing is answered by another one instead."""
    answer = served.chat("say hello", model=model)
    assert answer.status_code == 404
    error = answer.json()["error"]
    assert (error["code"], error["param"]) == ("model_not_found", "model")
    assert error["message"].endswith("there are: scripted")


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("demo", "demo"),
        ("THUDM/chatglm-6b", "THUDM/chatglm-6b"),
        ("/srv/models/chatglm-6b/", "chatglm-6b"),
        ("./my model", "my model"),
        ("~/glm", "glm"),
        ("C:\\models\\glm", "glm"),
        ("/", "/"),
    ],
)
def test_directories_are_not_shown_to_clients(name: str, shown: str) -> None:
    """Of a model in a directory clients see the last part of its path."""
    assert shorten_model_name(name) == shown


def test_name_can_be_chosen(runtime: ScriptedRuntime) -> None:
    """--served-model-name replaces the model's own."""
    with serving(runtime.model, served_model_name="house") as served:
        assert served.chat("say hello", model="house").json()["model"] == "house"
        assert served.chat("say hello", model="scripted").status_code == 404
