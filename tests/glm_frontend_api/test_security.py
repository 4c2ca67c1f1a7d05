"""Who may ask: keys, hosts, origins."""

from __future__ import annotations

import contextlib
import itertools
import socket
from typing import Any

import httpx
import pytest
from api_support import ScriptedRuntime, Served, chat_body, serving, until
from glm_frontend_api.app import asgi_app
from patience import PATIENCE_SECONDS
from starlette.testclient import TestClient
from starlette.types import ASGIApp

ROUTES = [
    ("GET", "/v1/models"),
    ("GET", "/v1/models/scripted"),
    ("GET", "/v1/adapters"),
    ("POST", "/v1/adapters"),
    ("DELETE", "/v1/adapters/x"),
    ("POST", "/v1/chat/completions"),
    ("POST", "/v1/completions"),
    ("POST", "/"),
    ("GET", "/ready"),
    ("GET", "/metrics"),
    ("GET", "/openapi.json"),
    ("GET", "/docs"),
    ("POST", "/health"),
]


def test_key_covers_every_route_but_health(runtime: ScriptedRuntime) -> None:
    """Without the key nothing is told but that the process is alive."""
    with serving(runtime.model, api_key="right") as served:
        for method, path in ROUTES:
            answer = httpx.request(method, served.url + path, timeout=PATIENCE_SECONDS)
            assert answer.status_code == 401, path
            assert answer.headers["www-authenticate"] == "Bearer"
            assert "right" not in answer.text
        assert httpx.get(f"{served.url}/health", timeout=PATIENCE_SECONDS).status_code == 200
        assert served.chat("say hello").is_success


@pytest.mark.parametrize(
    "value", ["Bearer wrong", "Bearer", "Bearer right2", "Basic right", "right", "Bearer righ", "Bearer é"]
)
def test_wrong_keys_are_refused(runtime: ScriptedRuntime, value: str) -> None:
    """Only the whole key as a bearer token opens; any other header is a 401."""
    with serving(runtime.model, api_key="right") as served:
        headers = {b"authorization": value.encode("latin-1")}
        answer = httpx.get(f"{served.url}/v1/models", headers=headers, timeout=PATIENCE_SECONDS)
        assert answer.status_code == 401
        assert answer.json()["error"]["code"] == "invalid_api_key"
        assert httpx.get(
            f"{served.url}/v1/models", headers={"authorization": "bearer right"}, timeout=PATIENCE_SECONDS
        ).is_success
        twice = [("authorization", "Bearer right"), ("authorization", "Bearer right")]
        assert (
            httpx.get(f"{served.url}/v1/models", headers=twice, timeout=PATIENCE_SECONDS).status_code == 401
        )
        for other in ({"x-api-key": "right"}, {"cookie": "key=right"}):
            assert (
                httpx.get(f"{served.url}/v1/models", headers=other, timeout=PATIENCE_SECONDS).status_code
                == 401
            )
        assert httpx.get(f"{served.url}/v1/models?api_key=right", timeout=PATIENCE_SECONDS).status_code == 401


def test_errors_of_the_original_route_keep_their_shape_when_locked(runtime: ScriptedRuntime) -> None:
    """A 401 on POST / looks like its other errors."""
    with serving(runtime.model, api_key="right") as served:
        body = httpx.post(served.url, json={"prompt": "say hello"}, timeout=PATIENCE_SECONDS).json()
    assert set(body) == {"error", "status", "time"}


@pytest.mark.parametrize(
    ("host", "status"),
    [
        *[(host, 200) for host in ("localhost", "127.0.0.1:8000", "[::1]:8000")],
        *[(host, 403) for host in ("evil.example", "localhost.evil.example", "10.0.0.1")],
        ("127.0.0.1.evil.example:80", 403),
    ],
)
def test_other_names_of_this_machine_are_refused(served: Served, host: str, status: int) -> None:
    """A page whose own name was made to point at loopback cannot use the server."""
    answer = served.http.get("/v1/models", headers={"host": host})
    assert answer.status_code == status
    if status == 403:
        assert answer.json()["error"]["code"] == "host_not_allowed"


@pytest.mark.parametrize(
    ("origin", "status"),
    [
        *[(origin, 200) for origin in ("http://localhost:3000", "http://127.0.0.1:8000")],
        *[(origin, 403) for origin in ("https://evil.example", "null", "http://localhost.evil.example")],
    ],
)
def test_pages_of_other_sites_are_refused(served: Served, origin: str, status: int) -> None:
    """A browser says where a request comes from; other sites' pages get nothing, not even once."""
    answer = served.http.post("/v1/chat/completions", json=chat_body("say hello"), headers={"origin": origin})
    assert answer.status_code == status
    assert "access-control-allow-origin" not in answer.headers


def test_form_posts_are_refused(served: Served, runtime: ScriptedRuntime) -> None:
    """A body type that a page may send without asking first is not read."""
    for kind in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x"):
        answer = served.http.post("/", content=b'{"prompt": "say hi"}', headers={"content-type": kind})
        assert answer.status_code == 415
    assert runtime.requests == []


def test_sites_that_are_named_may_call(runtime: ScriptedRuntime) -> None:
    """--cors-origin lets one site's pages in, with the headers that browsers want."""
    site = "https://chat.example"
    with serving(runtime.model, cors_origins=(site,)) as served:
        answer = served.http.post(
            "/v1/chat/completions", json=chat_body("say hello"), headers={"origin": site}
        )
        assert answer.headers["access-control-allow-origin"] == site
        asked = {"origin": site, "access-control-request-method": "POST"}
        asked["access-control-request-headers"] = "authorization,content-type"
        assert served.http.options("/v1/chat/completions", headers=asked).status_code == 200
        other = served.http.get("/v1/models", headers={"origin": "https://evil.example"})
        assert other.status_code == 403


def test_key_makes_names_and_sites_harmless(runtime: ScriptedRuntime) -> None:
    """With a key a proxy's host name is served, because no page knows the key."""
    with serving(runtime.model, api_key="right") as served:
        headers = {"host": "glm.example.org", "origin": "https://chat.example"}
        assert served.http.get("/v1/models", headers=headers).is_success


def test_websockets_are_refused(served: Served) -> None:
    """There is no websocket to upgrade to."""
    headers = {"connection": "upgrade", "upgrade": "websocket", "sec-websocket-version": "13"}
    answer = served.http.get("/v1/x", headers={**headers, "sec-websocket-key": "AAAAAAAAAAAAAAAAAAAAAA=="})
    assert answer.status_code == 404


def test_body_limit_holds_with_and_without_a_length(runtime: ScriptedRuntime) -> None:
    """A body that is too large is a 413, told by its length or found while reading chunks."""
    with serving(runtime.model, max_body_bytes=1000) as served:
        large = b'{"prompt": "' + b"x" * 2000 + b'"}'
        json_type = {"content-type": "application/json"}
        told = served.http.post("/", content=large, headers=json_type)
        found = served.http.post("/", content=itertools.repeat(b" " * 100, 50), headers=json_type)
        assert (told.status_code, found.status_code) == (413, 413)
        assert "larger than 1000 bytes" in told.json()["error"]
        assert served.ask_original("say hello").is_success


def test_body_that_never_ends_is_given_up(runtime: ScriptedRuntime) -> None:
    """A client that stops sending in the middle of its body gets a 408 and holds nothing."""
    with serving(runtime.model, body_seconds=0.2) as served:
        with socket.create_connection(("127.0.0.1", served.port), timeout=PATIENCE_SECONDS) as client:
            client.sendall(b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 50\r\n\r\n{")
            assert client.recv(4096).startswith(b"HTTP/1.1 408 ")
        until(lambda: served.ask_original("say hello").is_success)  # the limit is short for a busy machine
        until(lambda: served.service.posts.taken == 0)


@pytest.mark.parametrize(
    "head", [b"", b"GET /health HT", b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\nGET"]
)
def test_request_that_never_arrives_is_given_up(runtime: ScriptedRuntime, head: bytes) -> None:
    """A connection without a whole request is closed, the first time and after an answer."""
    with serving(runtime.model, body_seconds=0.1) as served:
        with socket.create_connection(("127.0.0.1", served.port), timeout=PATIENCE_SECONDS) as client:
            client.sendall(head)
            with contextlib.suppress(ConnectionResetError):
                while client.recv(4096):
                    pass
        until(lambda: served.chat("say hello").is_success)  # the limit is short for a busy machine


def test_proxy_path_is_understood(runtime: ScriptedRuntime) -> None:
    """With --root-path the routes answer under it and without it, and the document names it."""
    with serving(runtime.model, root_path="/glm") as served:
        for prefix in ("", "/glm"):
            assert served.http.get(f"{prefix}/health").is_success
            body = chat_body("say hello")
            assert served.http.post(f"{prefix}/v1/chat/completions", json=body).is_success
            assert served.http.get(f"{prefix}/").json()["status"] == 405
        assert served.http.get("/openapi.json").json()["servers"] == [{"url": "/glm"}]


def test_app_for_another_server_says_who_may_call(runtime: ScriptedRuntime) -> None:
    """What ``glm.asgi`` offers takes a key, further host names, or any name."""

    def status(app: ASGIApp, host: str, **headers: str) -> int:
        return TestClient(app, base_url=f"http://{host}").get("/v1/models", headers=headers).status_code

    some = asgi_app(runtime.model, allowed_hosts=["chat.example"])
    assert [status(some, host) for host in ("127.0.0.1", "chat.example", "evil.example")] == [200, 200, 403]
    assert status(asgi_app(runtime.model), "any.example") == 200
    locked = asgi_app(runtime.model, api_key="right", allowed_hosts=[])
    assert status(locked, "127.0.0.1") == 401
    assert status(locked, "any.example", authorization="Bearer right") == 200


BIG = 200_000


@pytest.mark.parametrize(
    ("method", "path"), [*ROUTES, ("GET", "/health"), ("HEAD", "/v1/models"), ("PUT", "/")]
)
@pytest.mark.parametrize("key", ["right", "wrong"])
@pytest.mark.parametrize("chunked", [False, True])
def test_no_route_takes_a_body_beyond_the_limit(
    runtime: ScriptedRuntime, method: str, path: str, key: str, chunked: bool
) -> None:
    """Whatever the route, method or key: a large body is refused, or ignored by a route that takes none."""
    with serving(runtime.model, api_key="right", max_body_bytes=1000) as served:
        content: Any = itertools.repeat(b" " * 1000, BIG // 1000) if chunked else b" " * BIG
        headers = {"authorization": f"Bearer {key}", "content-type": "application/json"}
        answer = httpx.request(
            method, served.url + path, content=content, headers=headers, timeout=PATIENCE_SECONDS
        )
        if key == "wrong" and (method, path) != ("GET", "/health"):
            assert answer.status_code == 401  # before anything is said of the body
        elif not chunked:
            assert answer.status_code == 413
        else:  # nobody looks at the body where a route takes none, or there is no such route
            assert answer.status_code in (200, 404, 405, 413)
        assert runtime.requests == [] or path == "/ready"


def test_page_of_another_site_cannot_have_the_model_asked(served: Served, runtime: ScriptedRuntime) -> None:
    """A browser's own word on where a request comes from counts also where it sends no Origin."""
    headers = {"sec-fetch-site": "cross-site", "sec-fetch-mode": "no-cors"}
    for method, path in (("GET", "/ready"), ("POST", "/")):
        answer = served.http.request(method, path, headers=headers, json={"prompt": "say hello"})
        assert answer.status_code == 403
    assert runtime.requests == []
    assert served.http.get("/health", headers={**headers, "sec-fetch-mode": "navigate"}).is_success


def test_upgrade_to_a_websocket_advises_nothing(served: Served, caplog: pytest.LogCaptureFixture) -> None:
    """The log does not tell whoever runs the server to install what would not help."""
    headers = {"connection": "upgrade", "upgrade": "websocket", "sec-websocket-version": "13"}
    served.http.get("/v1/x", headers={**headers, "sec-websocket-key": "AAAAAAAAAAAAAAAAAAAAAA=="})
    assert [record for record in caplog.records if record.name.startswith("uvicorn")] == []


def test_two_lengths_of_one_body_are_refused(served: Served, runtime: ScriptedRuntime) -> None:
    """The shape of the error is the route's own; the connection ends."""
    head = b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    head += b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"
    with socket.create_connection(("127.0.0.1", served.port), timeout=PATIENCE_SECONDS) as client:
        client.sendall(head)
        answer = b""
        while piece := client.recv(65536):
            answer += piece
    assert answer.startswith(b"HTTP/1.1 400")
    assert b"ambiguous_length" in answer
    assert runtime.requests == []
