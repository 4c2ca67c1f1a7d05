"""The HTTP API beside the page."""

from contextlib import asynccontextmanager
from importlib import metadata
from types import SimpleNamespace

import pytest
from glm_frontend_web import _api
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Route
from starlette.testclient import TestClient

from glm_core import PluginError


def answering(text, **more):
    """An app that answers everything with one word."""

    async def handler(request):
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
    ],
)
def test_each_request_goes_where_it_belongs(method, path, who):
    """The API has its own paths and the original's POST /; everything else is the page's."""
    client = TestClient(_api.Beside(answering("page"), answering("api")))
    assert client.request(method, path).text == who


def test_the_api_is_started_and_stopped_with_the_page():
    """What the API does at the beginning and end of its life happens."""
    events = []

    @asynccontextmanager
    async def life(app):
        events.append("start")
        yield
        events.append("stop")

    with TestClient(_api.Beside(answering("page"), answering("api", lifespan=life))):
        assert events == ["start"]
    assert events == ["start", "stop"]


def entry_points(monkeypatch, *points):
    """Pretend that these entry points are installed."""

    def find(*, group, name):
        assert (group, name) == ("glm.asgi", "api")
        return list(points)

    monkeypatch.setattr(metadata, "entry_points", find)


def test_a_missing_api_is_one_sentence(monkeypatch):
    """Which package to install."""
    entry_points(monkeypatch)
    with pytest.raises(PluginError, match=r"pip install glm-frontend-api"):
        _api.find_api()


def test_a_broken_api_is_one_sentence(monkeypatch):
    """Which package, and what went wrong in it."""

    def load():
        raise ImportError("no module named x")

    entry_points(monkeypatch, SimpleNamespace(value="somewhere:app", load=load))
    with pytest.raises(
        PluginError, match=r"somewhere:app cannot be loaded \(ImportError: no module named x\)"
    ):
        _api.find_api()


def test_the_api_is_made_of_the_same_model(monkeypatch):
    """The factory gets the model, the key and the names; one of another shape is reported."""
    seen = {}

    def factory(model, *, api_key=None, allowed_hosts=None):
        seen.update(model=model, api_key=api_key, allowed_hosts=allowed_hosts)
        return "app"

    entry_points(monkeypatch, SimpleNamespace(value="somewhere:app", load=lambda: factory))
    found = _api.find_api()
    assert _api.make_api(found, "model", api_key="k", allowed_hosts=("a",)) == "app"
    assert seen == {"model": "model", "api_key": "k", "allowed_hosts": ("a",)}
    with pytest.raises(PluginError, match="does not fit this version"):
        _api.make_api(lambda model: None, "model", api_key=None, allowed_hosts=None)


def test_the_api_is_told_of_a_folder_of_adapters_where_there_is_one():
    """An older API, which knows of no such folder, works without one and is reported with one."""
    seen = {}

    def factory(model, **more):
        seen.update(more)
        return "app"

    _api.make_api(factory, "model", api_key="k", allowed_hosts=None, adapters_dir="/srv/adapters")
    assert seen["adapters_dir"] == "/srv/adapters"
    with pytest.raises(PluginError, match=r"does not fit this version .*adapters_dir"):
        _api.make_api(
            lambda model, api_key, allowed_hosts: "app",
            "m",
            api_key="k",
            allowed_hosts=None,
            adapters_dir="/x",
        )
