"""The HTTP API beside the page."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib import metadata
from types import SimpleNamespace
from typing import Any, cast

import pytest
from glm_frontend_web import _api
from glm_frontend_web._work import PageWork
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Route
from starlette.testclient import TestClient

from glm_core import ChatModel, PluginError


def answering(text: Any, **more: Any) -> Starlette:
    """An app that answers everything with one word."""

    async def handler(request: pytest.FixtureRequest) -> PlainTextResponse:
        return PlainTextResponse(text)

    return Starlette(routes=[Route("/{path:path}", handler, methods=["GET", "POST"])], **more)


@pytest.mark.parametrize(
    ("method", "path", "who"),
    [
        ("GET", "/", "page"),
        ("POST", "/", "api"),
        ("GET", "/v1/models", "api"),
        ("POST", "/v1/chat/completions", "api"),
        ("GET", "/v1", "api"),
        ("GET", "/v10", "page"),
        ("GET", "/health", "api"),
        ("GET", "/ready", "api"),
        ("GET", "/metrics", "api"),
        ("GET", "/healthy", "page"),
        ("POST", "/gradio_api/queue/join", "page"),
        ("GET", "/v1/models/", "api"),
        ("GET", "//v1//models", "api"),
        ("POST", "//", "api"),
        ("GET", "/health/", "api"),
    ],
)
def test_each_request_goes_where_it_belongs(method: str, path: str, who: str) -> None:
    """The API has its own paths and the original's POST /; everything else is the page's."""
    client = TestClient(_api.ApiDispatcher(answering("page"), answering("api"), PageWork()))
    assert client.request(method, f"http://testserver{path}").text == who


def test_a_proxy_may_serve_both_under_a_path() -> None:
    """Whether or not it takes the prefix away."""
    client = TestClient(_api.ApiDispatcher(answering("page"), answering("api"), PageWork(), "/chat"))
    assert client.get("/chat/v1/models").text == client.get("/v1/models").text == "api"
    assert client.get("/chat/").text == "page"


def test_a_server_that_stops_takes_no_new_requests() -> None:
    """The API refuses questions in its own words, and still says how it is."""
    work = PageWork()
    client = TestClient(_api.ApiDispatcher(answering("page"), answering("api"), work))
    work.begin_draining()
    refused = client.post("/v1/chat/completions")
    assert (refused.status_code, refused.json()["error"]["code"]) == (503, "stopping")
    assert client.get("/health").text == "api"
    assert work.is_idle()


def test_the_api_is_started_and_stopped_with_the_page() -> None:
    """What the API does at the beginning and end of its life happens."""
    events = []

    @asynccontextmanager
    async def life(app: Any) -> AsyncIterator[None]:
        events.append("start")
        yield
        events.append("stop")

    with TestClient(_api.ApiDispatcher(answering("page"), answering("api", lifespan=life), PageWork())):
        assert events == ["start"]
    assert events == ["start", "stop"]


def entry_points(monkeypatch: pytest.MonkeyPatch, *points: Any) -> None:
    """Pretend that these entry points are installed."""

    def find(*, group: Any, name: Any) -> Any:
        assert (group, name) == ("glm.asgi", "api")
        return list(points)

    monkeypatch.setattr(metadata, "entry_points", find)


def test_a_missing_api_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    """Which package to install."""
    entry_points(monkeypatch)
    with pytest.raises(PluginError, match=r"pip install glm-frontend-api"):
        _api.find_api()


def test_a_broken_api_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    """Which package, and what went wrong in it."""

    def load() -> None:
        raise ImportError("no module named x")

    entry_points(monkeypatch, SimpleNamespace(value="somewhere:app", load=load))
    with pytest.raises(PluginError, match=r"somewhere:app.*loaded \(ImportError.*module.*x\)"):
        _api.find_api()


def test_the_api_is_made_of_the_same_model(monkeypatch: pytest.MonkeyPatch) -> None:
    """The factory gets the model, the key and the names; one of another shape is reported."""
    seen: dict[str, Any] = {}

    def factory(model: Any, *, api_key: Any = None, allowed_hosts: Any = None) -> str:
        seen.update(model=model, api_key=api_key, allowed_hosts=allowed_hosts)
        return "app"

    entry_points(monkeypatch, SimpleNamespace(value="somewhere:app", load=lambda: factory))
    found, model = _api.find_api(), cast(ChatModel, "model")
    assert _api.make_api(found, model, api_key="k", allowed_hosts=("a",)) == "app"
    assert seen == {"model": "model", "api_key": "k", "allowed_hosts": ("a",)}
    with pytest.raises(PluginError, match="does not fit this version"):
        _api.make_api(lambda model: None, model, api_key=None, allowed_hosts=None)


def test_the_api_is_told_of_a_folder_of_adapters_where_there_is_one() -> None:
    """An older API, which knows of no such folder, works without one and is reported with one."""
    seen: dict[str, Any] = {}

    def factory(model: Any, **more: Any) -> str:
        seen.update(more)
        return "app"

    model = cast(ChatModel, "model")
    _api.make_api(factory, model, api_key="k", allowed_hosts=None, adapters_dir="/srv/adapters")
    assert seen["adapters_dir"] == "/srv/adapters"
    with pytest.raises(PluginError, match=r"does not fit this version .*adapters_dir"):
        _api.make_api(
            lambda model, api_key, allowed_hosts: "app",
            model,
            api_key="k",
            allowed_hosts=None,
            adapters_dir="/x",
        )
