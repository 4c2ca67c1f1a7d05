"""What the page takes from outside: which requests, of what size, and before it knows who asks."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from glm_frontend_web._room import MAX_BYTES
from web_client import RawWindow
from web_support import Site, site

CHUNK = 65536  # bytes that the page is offered at a time
READABLE_WITHOUT_LOGIN = 10_000  # bytes of a login form
TURN = '{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}'
ALLOWED = ("/gradio_api/cancel", "/gradio_api/queue/join", "/gradio_api/reset", "/login")
JSON = {"content-type": "application/json"}
FORM = {"content-type": "application/x-www-form-urlencoded"}


@pytest.fixture(scope="module")
def guarded() -> Iterator[Any]:
    """The process of a page with a password."""
    with site(options={"auth": "ann:secret"}) as served:
        yield served.script


def test_strangers_cannot_have_a_body_read(guarded: Any) -> None:
    """On every route that takes one: without login, nothing is read, but for the login form itself."""
    routes = guarded.list_writable_routes()
    assert len(routes) > 20
    for method, path in [*routes, ("POST", "/"), ("PUT", "/assets/x"), ("POST", "/nothing"), ("GET", "/")]:
        status, taken = guarded.offer_body(method, path, JSON)
        is_login = path.rstrip("/") == "/login"
        if method != "GET":
            assert status in (401, 403, 404, 405, 413, *([422] if is_login else [])), (method, path, status)
        assert taken == 0, (method, path, status)
    status, taken = guarded.offer_body("POST", "/login", FORM)
    assert (status, taken <= READABLE_WITHOUT_LOGIN + CHUNK) == (413, True)


@pytest.mark.parametrize("path", ALLOWED)
def test_visitors_cannot_have_a_large_body_read(guarded: Any, path: str) -> None:
    """Logged in, and without saying how long it is: reading ends where a file would be too large."""
    status, taken = guarded.offer_body("POST", path, FORM if path == "/login" else JSON, logged_in=True)
    assert status == 413
    assert taken <= MAX_BYTES * 1.5


def test_a_body_that_says_how_long_it_is_is_refused_unread(guarded: Any) -> None:
    """Not one byte of 300 MB is taken."""
    headers = JSON | {"content-length": "300000000"}
    assert guarded.offer_body("POST", "/gradio_api/queue/join", headers, logged_in=True) == (413, 0)


def test_many_small_values_are_refused_before_they_are_read_as_json(guarded: Any) -> None:
    """A megabyte of brackets is within the limit of bytes, and would keep the server busy."""
    status, _ = guarded.offer_body("POST", "/gradio_api/queue/join", JSON, logged_in=True, chunks=16)
    assert status == 413


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
def test_pages_of_other_sites_can_post_nothing(guarded: Any, headers: dict[str, str]) -> None:
    """Whatever they send, and even with a visitor's cookie, nothing of it is read."""
    for path in (*ALLOWED, "/gradio_api/upload"):
        assert guarded.offer_body("POST", path, JSON | headers, logged_in=True) == (403, 0), path


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
        assert "larger than 3 MB" in window.import_text("a.json", " " * (MAX_BYTES + 1))
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


FILE = {"path": "/etc/passwd", "meta": {"_type": "gradio.FileData"}}
REMOTE = {"path": "http://192.0.2.1/a", "url": "http://192.0.2.1/a", "meta": {"_type": "gradio.FileData"}}
VALUES: tuple[Any, ...] = (
    FILE,
    REMOTE,
    [FILE],
    {"a": {"b": [FILE]}},
    [],
    {},
    1e400,
    float("nan"),
    10**400,
    -1,
    3.5,
    True,
    "no",
)


@pytest.mark.parametrize("value", VALUES, ids=range(len(VALUES)))
def test_no_value_of_an_event_reaches_the_disk_the_network_or_the_log(
    scripted_site: Site, value: Any
) -> None:
    """In the place of any value of any function; above all a path or an address, which gradio copies from."""
    with RawWindow(scripted_site.url) as window:
        before = scripted_site.script.list_uploads()
        for function in window.config["dependencies"]:
            for place in range(len(function["inputs"])):
                data: list[Any] = [None] * len(function["inputs"])
                data[place] = value
                event = {"data": data, "fn_index": function["id"], "session_hash": window.name}
                answer = window.http.post("gradio_api/queue/join", content=json.dumps(event), headers=JSON)
                is_plain = isinstance(value, str)
                assert answer.status_code == 400 or (is_plain and answer.status_code == 200), answer.text
        assert scripted_site.script.list_uploads() == before


NUMBERS: tuple[Any, ...] = (-1, 9999, None, True, "0", [], 10**40)
NAMES: tuple[Any, ...] = (None, 5, "", "a/b", "x" * 101, "窗", [])
DATA: tuple[Any, ...] = (None, [], [None], "ab", [None] * 3, {})
CHANGES: list[dict[str, Any]] = [{"fn_index": number} for number in NUMBERS]
CHANGES += [{"session_hash": name} for name in NAMES]
CHANGES += [{"data": data} for data in DATA]
CHANGES += [{"batched": True}]


@pytest.mark.parametrize("change", CHANGES, ids=range(len(CHANGES)))
def test_an_event_that_fits_no_function_is_refused(scripted_site: Site, change: dict[str, Any]) -> None:
    """By a sentence, before gradio could answer with a traceback in the terminal."""
    with RawWindow(scripted_site.url) as window:
        event = {"data": [None, None], "fn_index": 0, "session_hash": window.name} | change
        answer = window.http.post("gradio_api/queue/join", content=json.dumps(event), headers=JSON)
        assert answer.status_code == 400, answer.text
        assert "reload the page" in answer.text


def test_updates_of_a_window_that_asked_nothing_are_not_found(scripted_site: Site) -> None:
    """Gradio would begin an answer and break off with a traceback in the terminal."""
    with RawWindow(scripted_site.url) as window:
        for query in ("?session_hash=unknown", "?session_hash=", ""):
            answer = window.http.get(f"gradio_api/queue/data{query}")
            assert (answer.status_code, answer.text[:7]) == (404, "nothing"), query
        assert "success" in window.ask("hello")
