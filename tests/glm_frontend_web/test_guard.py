"""What stands in front of the page."""

from __future__ import annotations

import base64
import hashlib
from types import SimpleNamespace
from typing import Any

import pytest
from glm_frontend_web._guard import build_policy, guard_page
from starlette.applications import Starlette
from starlette.responses import HTMLResponse, PlainTextResponse, StreamingResponse
from starlette.routing import Route
from starlette.testclient import TestClient

OPEN = SimpleNamespace(auth=None)  # what the guard asks gradio: whether visitors must log in
PAGE = '<script src="/a.js"></script><script>first()</script><script type="module">second()</script>'


def digest(script: Any) -> str:
    """A script's hash as a policy names it."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}'"


@pytest.fixture
def app() -> Starlette:
    """A page in two pieces, and some text."""

    async def page(request: pytest.FixtureRequest) -> StreamingResponse:
        return StreamingResponse(iter([PAGE[:40], PAGE[40:]]), media_type="text/html")

    async def text(request: pytest.FixtureRequest) -> PlainTextResponse:
        return PlainTextResponse("hello")

    async def whole(request: pytest.FixtureRequest) -> HTMLResponse:
        return HTMLResponse("<p>x</p>")

    return Starlette(routes=[Route("/", page), Route("/text", text), Route("/whole", whole)])


def test_a_page_runs_its_own_scripts_and_no_others(app: Any) -> None:
    """The policy names each inline script by its hash, forbids handlers, and allows this server only."""
    response = TestClient(guard_page(app, OPEN)).get("/")
    rules = dict(rule.split(" ", 1) for rule in response.headers["content-security-policy"].split("; "))
    assert response.text == PAGE
    assert rules["script-src"] == f"'self' 'unsafe-eval' {digest('first()')} {digest('second()')}"
    assert rules["script-src-attr"] == "'none'"
    assert rules["default-src"] == rules["connect-src"] == "'self'"
    assert "unsafe-inline" not in rules["script-src"]
    assert not any("http" in rule for rule in rules.values())


def test_other_responses_pass_unchanged(app: Any) -> None:
    """Only HTML has a policy; nothing is guessed from content."""
    response = TestClient(guard_page(app, OPEN)).get("/text")
    assert response.text == "hello"
    assert "content-security-policy" not in response.headers
    assert response.headers["x-content-type-options"] == "nosniff"
    assert TestClient(guard_page(app, OPEN)).get("/whole").text == "<p>x</p>"


def test_a_page_without_scripts_allows_none() -> None:
    """No hash, no inline script."""
    assert "sha256" not in build_policy(b"<p>no script</p>")


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("localhost:7860", 200),
        ("127.0.0.1", 200),
        ("LOCALHOST", 200),
        ("[::1]:7860", 200),
        ("evil.example", 403),
        ("localhost.evil.example:7860", 403),
        ("", 403),
    ],
)
def test_only_known_names_are_answered(app: Any, host: str, status: int) -> None:
    """A site that points its own name at this machine gets nothing, and a person learns what to do."""
    client = TestClient(guard_page(app, OPEN, ["localhost", "127.0.0.1", "[::1]"]))
    response = client.get("/text", headers={"host": host})
    assert response.status_code == status
    if status == 403:
        assert "--allowed-hosts" in response.text
