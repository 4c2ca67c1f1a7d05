"""Checks before bodies, and bodies that are counted while they come."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from glm_http.refusals import RefusalError
from http_support import EchoApp, Running, build_request, chunk, guard, serving_app
from patience import wait_until
from starlette.datastructures import Headers
from starlette.types import Receive, Scope, Send

LIMIT = 1000


def check_login(scope: Scope, headers: Headers) -> None:
    """Ask for a header."""
    if "x-login" not in headers:
        raise RefusalError(401, "login_required", "log in")


@pytest.fixture
def app() -> EchoApp:
    """What stands behind the gate."""
    return EchoApp()


@pytest.fixture
def running(app: EchoApp) -> Iterator[Running]:
    """A server with a limit of bytes and a login."""
    with serving_app(guard(app, LIMIT, checks=(check_login,), body_seconds=60.0)) as running:
        yield running


def build_chunked(body: bytes, size: int = 100, path: str = "/") -> bytes:
    """A request without a length."""
    head = f"POST {path} HTTP/1.1\r\nHost: x\r\nX-Login: 1\r\nConnection: close\r\n"
    return head.encode() + b"Transfer-Encoding: chunked\r\n\r\n" + chunk(body, size)


def test_bodies_within_the_limit_pass_whole(running: Running, app: EchoApp) -> None:
    """With a length or in chunks, the application gets every byte."""
    for request in (build_request("/", b"x" * LIMIT, X_Login="1"), build_chunked(b"x" * LIMIT)):
        assert running.send(request).endswith(b"\r\n\r\n" + b"x" * LIMIT)
    assert app.received == 2 * LIMIT


def test_declared_body_beyond_the_limit_reaches_nobody(running: Running, app: EchoApp) -> None:
    """Content-Length alone decides, whatever it looks like; nothing is read."""
    for length in (str(LIMIT + 1), "9" * 30, "0" * 100 + "1001"):
        head = b"POST / HTTP/1.1\r\nHost: x\r\nX-Login: 1\r\nConnection: close\r\n"
        answer = running.send(head + f"Content-Length: {length}\r\n\r\n".encode())
        assert b" 413 " in answer.partition(b"\r\n")[0] or b" 400 " in answer.partition(b"\r\n")[0]
    assert app.started == 0


def test_body_in_chunks_beyond_the_limit_is_refused_while_it_comes(running: Running, app: EchoApp) -> None:
    """Without a length the bytes themselves are counted."""
    answer = running.send(build_chunked(b"x" * 50 * LIMIT))
    assert b" 413 " in answer.partition(b"\r\n")[0]
    assert answer.endswith(b"body_too_large")
    assert app.received <= LIMIT


def test_application_that_swallows_the_refusal_cannot_answer_otherwise() -> None:
    """Frameworks turn what goes wrong while reading into a 400 of their own; the client gets the 413."""

    async def swallow(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        try:
            while True:
                await receive()
        except RefusalError:
            await send({"type": "http.response.start", "status": 400, "headers": []})
            await send({"type": "http.response.body", "body": b"error parsing"})

    with serving_app(guard(swallow, LIMIT)) as running:
        answer = running.send(build_chunked(b"x" * 5 * LIMIT))
    assert b" 413 " in answer.partition(b"\r\n")[0]
    assert b"error parsing" not in answer


def test_checks_come_before_bodies(running: Running, app: EchoApp) -> None:
    """Without the login nothing of a body is read, however it is sent; the refusal comes at once."""
    for request in (
        build_request("/", b"x" * LIMIT),
        build_request("/", b"x" * 300 * LIMIT),
        build_chunked(b"x" * 5 * LIMIT).replace(b"X-Login: 1\r\n", b""),
        # The body never comes, and yet there is an answer.
        b"POST / HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 900\r\n\r\n",
    ):
        assert b" 401 " in running.send(request).partition(b"\r\n")[0]
    assert app.started == 0


def test_two_lengths_are_refused(running: Running, app: EchoApp) -> None:
    """A proxy could believe the other one, so neither counts, and the connection ends."""
    head = (
        b"POST / HTTP/1.1\r\nHost: x\r\nX-Login: 1\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n"
    )
    answer = running.send(head + chunk(b"abc", 3))
    assert b" 400 " in answer.partition(b"\r\n")[0]
    assert answer.endswith(b"ambiguous_length")
    assert app.started == 0


def test_body_that_does_not_come_is_given_up(app: EchoApp) -> None:
    """However small the pieces by which it pretends to come."""
    with serving_app(guard(app, LIMIT, body_seconds=0.2)) as running:
        with running.connect() as client:
            client.sendall(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 900\r\n\r\nabc")
            assert b" 408 " in client.recv(65536).partition(b"\r\n")[0]


@pytest.mark.parametrize("path", ["//wait//", "/a/", "http://x/a", "//a"])
def test_application_gets_one_form_of_a_path(running: Running, app: EchoApp, path: str) -> None:
    """Slashes at the end, or doubled, reach the same route."""
    app.released = True
    running.send(build_request(path, X_Login="1"))
    assert app.paths == ["/wait" if "wait" in path else "/a"]


def test_websockets_are_turned_away_without_advice(
    running: Running, caplog: pytest.LogCaptureFixture
) -> None:
    """An upgrade that is not offered is ignored, as the standard says, and nothing is logged."""
    upgrade: dict[str, Any] = {
        "Connection": "Upgrade, close",
        "Upgrade": "websocket",
        "Sec_WebSocket_Key": "x",
        "Sec_WebSocket_Version": "13",
    }
    request = build_request("/a", method="GET", close=False, X_Login="1", **upgrade)
    with running.connect() as client:
        client.sendall(request)
        assert b" 200 " in client.recv(65536).partition(b"\r\n")[0]
    assert caplog.text == ""


def test_refused_body_does_not_cost_the_connection(running: Running, app: EchoApp) -> None:
    """A client that finishes a refused body may go on with its next request."""
    with running.connect() as client:
        client.sendall(build_request("/", b"x" * 20 * LIMIT, close=False, X_Login="1"))
        assert b" 413 " in client.recv(65536)
        client.sendall(build_request("/", b"fine", X_Login="1"))
        answer = b""
        while piece := client.recv(65536):
            answer += piece
    assert answer.endswith(b"fine")
    wait_until(lambda: app.started == 1)


def test_long_bodies_together_are_limited_and_short_ones_pass() -> None:
    """While one is held the next is refused, short ones are not; afterwards there is room again."""
    app = EchoApp()
    with serving_app(guard(app, 40_000, max_bytes_at_once=30_000, body_seconds=60.0)) as running:
        long = build_request("/", b"x" * 40_000)
        for _ in range(3):  # so that an answered and an abandoned one would be found to be counted still
            app.received = 0
            with running.connect() as slow:
                slow.sendall(long[:-1])
                wait_until(lambda: app.received >= 39_000)
                for request in (long, build_chunked(b"x" * 40_000, 1000)):
                    answer = running.send(request)
                    assert b" 503 " in answer.partition(b"\r\n")[0]
                    assert answer.endswith(b"too_many_bodies")
                    assert b"retry-after: 1" in answer
                assert running.send(build_request("/", b"y" * 9000)).endswith(b"\r\n\r\n" + b"y" * 1000)
            wait_until(lambda: running.send(long).endswith(b"x" * 1000))
