"""What the page takes from outside: which requests, of what size, and before it knows who asks."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping
from typing import Any

import pytest
from glm_frontend_web._app import build_app
from glm_frontend_web._guard import MAX_IMPORT_BYTES
from glm_frontend_web._options import WebOptions
from starlette.routing import Mount
from web_client import RawWindow
from web_support import ScriptedRuntime, Site

CHUNK = b"[" * 65536
READABLE_WITHOUT_LOGIN = 10_000  # bytes of a login form
TURN = '{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}'
ALLOWED = {"/login", "/gradio_api/queue/join", "/gradio_api/cancel", "/gradio_api/reset"}


@pytest.fixture(scope="module")
def page() -> Any:
    """The application of a page with a password, as a server would run it."""
    app, _ = build_app(ScriptedRuntime().model, WebOptions(auth=("ann", "secret")))
    return app


@pytest.fixture(scope="module")
def gradio_app(page: Any) -> Any:
    """Gradio's application inside the page."""
    app = page
    while not getattr(app, "routes", None):
        app = app._app
    return app.routes[-1].app


def find_writable(app: Any) -> Iterator[tuple[str, str]]:
    """Every method and path with which gradio takes a body."""
    for route in app.routes:
        if isinstance(route, Mount):
            continue
        for method in sorted((getattr(route, "methods", None) or {"POST"}) - {"GET", "HEAD", "OPTIONS"}):
            yield method, route.path


def request(
    app: Any, method: str, path: str, headers: Mapping[str, str], chunks: int = 10_000
) -> tuple[int, int]:
    """Send a request with an endless body; return the status, and how many bytes were taken."""
    taken, status = 0, 0

    async def receive() -> dict[str, Any]:
        nonlocal taken
        if taken >= chunks * len(CHUNK):
            return {"type": "http.request", "body": b"", "more_body": False}
        taken += len(CHUNK)
        return {"type": "http.request", "body": CHUNK, "more_body": True}

    async def send(message: Any) -> None:
        nonlocal status
        status = status or message.get("status", 0)

    scope = {
        "type": "http",
        "method": method,
        "path": path,
        "raw_path": path.encode(),
        "root_path": "",
        "scheme": "http",
        "http_version": "1.1",
        "query_string": b"",
        "headers": [
            (name.encode(), value.encode()) for name, value in {"host": "localhost", **headers}.items()
        ],
        "client": ("127.0.0.1", 1),
        "server": ("127.0.0.1", 7860),
    }
    asyncio.run(app(scope, receive, send))
    return status, taken


def test_strangers_cannot_have_a_body_read(page: Any, gradio_app: Any) -> None:
    """On every route that takes one: without login, nothing is read, but for the login form itself."""
    routes = list(find_writable(gradio_app))
    assert len(routes) > 20
    for method, path in [*routes, ("POST", "/"), ("PUT", "/assets/x"), ("POST", "/nothing"), ("GET", "/")]:
        filled = path.replace("{", "").replace("}", "").replace(":path", "")
        status, taken = request(page, method, filled, {"content-type": "application/json"})
        limit = READABLE_WITHOUT_LOGIN + len(CHUNK) if path.rstrip("/") == "/login" else 0
        if method != "GET":
            assert status in (401, 403, 404, 405, 413), (method, path, status)
        assert taken <= limit, (method, path, status)


@pytest.mark.parametrize("path", sorted(ALLOWED))
def test_visitors_cannot_have_a_large_body_read(page: Any, gradio_app: Any, path: str) -> None:
    """Logged in, and without saying how long it is: reading ends where a file would be too large."""
    gradio_app.tokens["t"] = "ann"
    cookie = {"cookie": f"access-token-unsecure-{gradio_app.cookie_id}=t", "content-type": "application/json"}
    status, taken = request(page, "POST", path, cookie)
    assert status == 413
    assert taken <= MAX_IMPORT_BYTES * 1.5


def test_a_body_that_says_how_long_it_is_is_refused_unread(page: Any, gradio_app: Any) -> None:
    """Not one byte of 300 MB is taken."""
    gradio_app.tokens["t"] = "ann"
    headers = {"cookie": f"access-token-{gradio_app.cookie_id}=t", "content-length": "300000000"}
    assert request(page, "POST", "/gradio_api/queue/join", headers) == (413, 0)


def test_many_small_values_are_refused_before_they_are_read_as_json(page: Any, gradio_app: Any) -> None:
    """A megabyte of brackets is within the limit of bytes, and would keep the server busy."""
    gradio_app.tokens["t"] = "ann"
    headers = {"cookie": f"access-token-{gradio_app.cookie_id}=t", "content-type": "application/json"}
    assert request(page, "POST", "/gradio_api/queue/join", headers, chunks=16)[0] == 413


@pytest.mark.parametrize(
    "headers",
    [
        {"origin": "https://evil.example"},
        {"origin": "null"},
        {"sec-fetch-site": "cross-site"},
        {"sec-fetch-site": "same-site"},
        {"origin": "http://localhost.evil.example", "sec-fetch-site": "cross-site"},
        {"host": "evil.example"},
    ],
)
def test_pages_of_other_sites_can_post_nothing(page: Any, gradio_app: Any, headers: dict[str, str]) -> None:
    """Whatever they send, and even with a visitor's cookie, nothing of it is read."""
    gradio_app.tokens["t"] = "ann"
    cookie = {"cookie": f"access-token-{gradio_app.cookie_id}=t"}
    for path in (*ALLOWED, "/gradio_api/upload"):
        assert request(page, "POST", path, cookie | headers) == (403, 0), path


def test_the_page_takes_no_uploads(scripted_site: Site) -> None:
    """A file that is sent to gradio's route for uploads is refused, and lands on no disk."""
    with RawWindow(scripted_site.url) as window:
        before = scripted_site.script.list_uploads()
        for path in ("gradio_api/upload", "gradio_api/upload/", "/gradio_api//upload?upload_id=x"):
            answer = window.http.post(path, files={"files": ("a.json", b"x" * 1000)})
            assert answer.status_code == 403, path
        assert window.http.get(f"gradio_api/deep_link?session_hash={window.name}").status_code == 404
        assert scripted_site.script.list_uploads() == before


def test_files_are_imported_without_touching_the_disk(scripted_site: Site) -> None:
    """One that is too large, or not sent whole, is a sentence; a right one is a conversation."""
    right = f'{{"version": 1, "messages": [{TURN}]}}'
    with RawWindow(scripted_site.url) as window:
        before = scripted_site.script.list_uploads()
        assert "turns: 1" in window.import_text("a.json", right)
        assert "larger than 3 MB" in window.import_text("a.json", " " * (MAX_IMPORT_BYTES + 1))
        assert "larger than 3 MB" in window.trigger("import-file", "upload", data={"name": "a.json"})
        for content in ("?", "YQ", [1], {"a": 1}):
            answer = window.trigger("import-file", "upload", data={"name": ["x"], "content": content})
            assert "process_completed" in answer
            assert "turns: 1" not in answer
        assert scripted_site.script.list_uploads() == before


def test_a_file_of_very_many_turns_is_refused(scripted_site: Site) -> None:
    """A megabyte of short words would be a hundred megabytes of page."""
    with RawWindow(scripted_site.url) as window:
        many = '{"version": 1, "messages": [' + ", ".join([TURN] * 3000) + "]}"
        assert "more than 2000 turns" in window.import_text("a.json", many)


@pytest.mark.parametrize("data", [None, 5, "x", [], [1], {"index": {}}, {"index": [[]]}, {"index": 10**30}])
def test_an_event_may_say_anything(scripted_site: Site, data: Any) -> None:
    """What another program sends in the place of the page's script is answered with a note, not a fault."""
    with RawWindow(scripted_site.url) as window:
        window.ask("hello")
        for component, event in (("glm-log", "edit"), ("glm-log", "delete"), ("import-file", "upload")):
            answer = window.trigger(component, event, data=data)
            assert '"success": true' in answer, answer
