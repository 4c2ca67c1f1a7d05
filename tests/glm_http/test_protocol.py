"""HTTP where clients close one half, leave, or send what is not HTTP."""

from __future__ import annotations

import contextlib
import logging
import socket
import struct
import time
from collections.abc import Iterator

import pytest
from http_support import EchoApp, Running, build_request, chunk, guard, read_all, serving_app
from hypothesis import HealthCheck, given, settings, strategies
from patience import wait_until

MEGABYTE = 2**20


@pytest.fixture
def app() -> EchoApp:
    """What is served."""
    return EchoApp()


@pytest.fixture
def running(app: EchoApp) -> Iterator[Running]:
    """A server without limits to speak of."""
    with serving_app(guard(app, 100 * MEGABYTE)) as running:
        yield running
        app.released = True


def start_line(answer: bytes) -> bytes:
    """The first line of a response."""
    return answer.partition(b"\r\n")[0]


# --- clients that close one half -----------------------------------------------------------------


@pytest.mark.parametrize("path", ["/", "/wait", "/blind"])
def test_client_that_closes_its_half_gets_its_answer(running: Running, app: EchoApp, path: str) -> None:
    """Shutting down the sending side after the body says only that nothing more is sent."""
    with running.connect() as client:
        client.sendall(build_request(path, b"hello", close=False))
        client.shutdown(socket.SHUT_WR)
        wait_until(lambda: app.started == 1)
        app.released = True
        answer = read_all(client)
    assert start_line(answer) == b"HTTP/1.1 200 OK"
    assert answer.endswith(b"" if path == "/blind" else b"hello")
    assert app.cancelled == 0


def test_requests_sent_together_are_all_answered_after_half_a_close(running: Running) -> None:
    """What came before the close is answered in order, and then the connection ends."""
    request = build_request("/", b"one", close=False) + build_request("/", b"two", close=False)
    answer = running.send(request, half_close=True)
    assert answer.count(b"HTTP/1.1 200 OK") == 2
    assert answer.index(b"one") < answer.index(b"two")


@pytest.mark.parametrize("reset", [False, True])
def test_client_that_leaves_is_noticed(running: Running, app: EchoApp, reset: bool) -> None:
    """Closing altogether cancels the request, although it begins as half a close does."""
    client = running.connect()
    if reset:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    client.sendall(build_request("/wait", b"hello", close=False))
    wait_until(lambda: app.started == 1)
    client.close()
    wait_until(lambda: app.cancelled == 1)


def test_half_a_body_is_no_request(running: Running, app: EchoApp) -> None:
    """Who closes before the body is whole is gone."""
    assert running.send(build_request("/", b"hello")[:-1], half_close=True) == b""
    wait_until(lambda: app.cancelled == app.started)


# --- what is not HTTP ----------------------------------------------------------------------------


def test_nonsense_is_a_400_and_the_log_stays_empty(
    running: Running, caplog: pytest.LogCaptureFixture
) -> None:
    """Anybody can send it, as often as they like, so it must not fill a disk."""
    for data in (b"hello\r\n\r\n", b"GET / HTTP\r\n\r\n", b"\x16\x03\x01\r\n\r\n"):
        assert start_line(running.send(data)).startswith(b"HTTP/1.1 400")
    assert caplog.text == ""


class Recorder(logging.Handler):
    """Keeps what is logged; pytest's own list is not emptied between examples."""

    def __init__(self) -> None:
        super().__init__()
        self.messages: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Keep one message."""
        self.messages.append(record.getMessage())


@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    strategies.lists(
        strategies.sampled_from(
            [
                *(
                    b"POST / HTTP/1.1\r\n",
                    b"GET /wait HTTP/1.1\r\n",
                    b"Host: x\r\n",
                    b"\r\n",
                    b"3\r\nabc\r\n",
                ),
                *(b"Transfer-Encoding: chunked\r\n", b"Content-Length: 3\r\n", b"0\r\n\r\n", b"zz\r\n"),
                *(
                    b"Expect: 100-continue\r\n",
                    b"Connection: close\r\n",
                    b"abc",
                    b"\x00\xff",
                    b"Content-Length: -1\r\n",
                ),
            ]
        ),
        max_size=12,
    )
)
def test_whatever_is_sent_the_next_request_is_answered(pieces: list[bytes]) -> None:
    """Parts of requests in any order do no harm and leave no traceback."""
    handler = Recorder()
    logging.getLogger().addHandler(handler)
    try:
        app = EchoApp(released=True)
        with serving_app(guard(app, 100)) as running:
            running.send(b"".join(pieces), half_close=True)
            assert start_line(running.send(build_request("/", b"fine"))) == b"HTTP/1.1 200 OK"
    finally:
        logging.getLogger().removeHandler(handler)
    assert handler.messages == []


# --- what would hold the event loop up -----------------------------------------------------------


def count_loop_seconds(running: Running, data: bytes) -> tuple[bytes, float]:
    """What the server answers, and the processor time that its event loop's thread took for it."""
    loops: list[float] = []

    def read_clock() -> None:
        loops.append(time.thread_time())

    connection_loop = running.server.servers[0].get_loop()
    connection_loop.call_soon_threadsafe(read_clock)
    answer = running.send(data)
    connection_loop.call_soon_threadsafe(read_clock)
    wait_until(lambda: len(loops) == 2)
    return answer, loops[1] - loops[0]


@pytest.mark.parametrize("size", [1, 7, 64])
def test_body_in_crumbs_does_not_hold_the_loop_up(running: Running, app: EchoApp, size: int) -> None:
    """A megabyte in tiny chunks is cut off; it would take the loop ten seconds."""
    head = b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
    _, seconds = count_loop_seconds(running, head + chunk(b"x" * MEGABYTE, size))
    assert app.received < MEGABYTE
    assert seconds < 1.0  # a few hundredths; generous, because a machine may be ten times slower than ours


@pytest.mark.parametrize("size", [500, 4096, MEGABYTE])
def test_body_in_ordinary_pieces_arrives(running: Running, app: EchoApp, size: int) -> None:
    """Chunks as real clients send them are no crumbs."""
    head = b"POST / HTTP/1.1\r\nHost: x\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n"
    running.send(head + chunk(b"x" * MEGABYTE, size))
    assert app.received == MEGABYTE


def test_small_body_may_come_byte_by_byte(running: Running, app: EchoApp) -> None:
    """A short body in chunks of one byte is served."""
    head = b"POST / HTTP/1.1\r\nHost: x\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n"
    assert running.send(head + chunk(b"hello" * 300, 1)).endswith(b"hello" * 200)


def test_thousands_of_headers_do_not_hold_the_loop_up(running: Running) -> None:
    """A head beyond 32 KB is refused, also where it comes in one piece."""
    answer, seconds = count_loop_seconds(
        running, b"GET / HTTP/1.1\r\nHost: x\r\n" + b"a:b\r\n" * 50_000 + b"\r\n"
    )
    assert start_line(answer).startswith(b"HTTP/1.1 400") or answer == b""
    assert seconds < 1.0


def test_endless_body_that_nobody_wants_is_cut_off(app: EchoApp) -> None:
    """A refused body may be finished, so that the client reads the refusal, but not for ever."""
    with serving_app(guard(app, 100)) as running, running.connect() as client:
        client.sendall(
            build_request("/", b"", close=False).replace(b"Content-Length: 0", b"Content-Length: 9999999999")
        )
        assert start_line(client.recv(65536)).startswith(b"HTTP/1.1 413")
        with contextlib.suppress(ConnectionError):
            for _ in range(1000):
                client.sendall(b"x" * MEGABYTE)
        wait_until(lambda: not running.server.server_state.connections)
