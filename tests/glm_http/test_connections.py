"""Connections stay below the limit of open files, and who is idle makes room."""

from __future__ import annotations

import contextlib
import errno
import resource
import signal
import socket
import sys
from collections.abc import Iterator

import pytest
from child_process import ChildProcess
from glm_http import connections
from glm_http.connections import ConnectionLimit, LimitedListener, count_allowed_connections
from glm_http.server import bind
from http_support import SUPPORT, EchoApp, Running, build_request, guard, read_all, serving_app
from patience import PATIENCE_SECONDS, wait_until

SERVER = """
import resource, sys
resource.setrlimit(resource.RLIMIT_NOFILE, (int(sys.argv[1]), int(sys.argv[1])))
import logging
logging.basicConfig(format="%(levelname)s %(message)s")
from http_support import EchoApp, guard
from glm_http.server import Server, bind
with bind("127.0.0.1", 0) as listener:
    print("port", listener.getsockname()[1], flush=True)
    Server(guard(EchoApp(), 1000)).run([listener])
"""


def ask(port: int, body: bytes = b"hello") -> bytes:
    """What a client that sends its request at once gets; nothing where it is cut off."""
    with contextlib.suppress(ConnectionError):
        with socket.create_connection(("127.0.0.1", port), timeout=PATIENCE_SECONDS) as client:
            client.sendall(build_request("/", body))
            return read_all(client)
    return b""


def test_idle_clients_leave_room_for_others() -> None:
    """With 256 files and 500 idle connections everybody is answered, and the log has one line."""
    with (
        ChildProcess(sys.executable, "-c", SERVER, "256", folder=SUPPORT) as process,
        contextlib.ExitStack() as stack,
    ):
        port = int(process.wait_for(r"port (\d+)")[1])
        for _ in range(500):
            stack.enter_context(socket.create_connection(("127.0.0.1", port), timeout=PATIENCE_SECONDS))
        # In the first second nobody counts as idle, so a newcomer may be turned away; then all are served.
        wait_until(lambda: b" 200 " in ask(port))
        answers = [ask(port) for _ in range(50)]
        assert all(answer.endswith(b"hello") for answer in answers)
        process.send_signal(signal.SIGTERM)
        done = process.finish()
    assert done.returncode == 0
    assert len(done.stderr.splitlines()) == 1
    assert "ulimit -n" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.fixture
def app() -> EchoApp:
    """What is served."""
    return EchoApp()


@pytest.fixture
def running(app: EchoApp, monkeypatch: pytest.MonkeyPatch) -> Iterator[Running]:
    """A server that takes ten connections."""
    monkeypatch.setattr("glm_http.server.count_allowed_connections", lambda: 10)
    with serving_app(guard(app, 1000)) as running:
        yield running
        app.released = True


def test_newcomer_is_told_where_everybody_is_at_work(running: Running, app: EchoApp) -> None:
    """Nobody who waits for an answer is cut off; the eleventh gets a 503 and may come again."""
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(running.connect()) for _ in range(10)]
        for client in clients:
            client.sendall(build_request("/wait", b"mine"))
        wait_until(lambda: app.started == 10)
        answer = ask(running.port)
        assert answer.startswith(b"HTTP/1.1 503")
        assert b"retry-after" in answer
        app.released = True
        assert all(read_all(client).endswith(b"mine") for client in clients)
    wait_until(lambda: ask(running.port).endswith(b"hello"))


def test_clients_that_leave_make_room(running: Running) -> None:
    """A hundred that come and go, ten at a time at most, are all answered."""
    for _ in range(100):
        wait_until(lambda: ask(running.port).endswith(b"hello"))


def test_accepting_rests_where_the_system_has_no_file(monkeypatch: pytest.MonkeyPatch) -> None:
    """The error is told to the loop once; asked again at once, there is just nobody to accept."""
    closed: list[int] = []

    def close_one() -> int:
        closed.append(1)
        return 1

    def fail(self: socket.socket) -> tuple[socket.socket, object]:
        raise OSError(errno.EMFILE, "Too many open files")

    with bind("127.0.0.1", 0) as listener:
        assert isinstance(listener, LimitedListener)
        listener.limit = ConnectionLimit(10, close_one)
        monkeypatch.setattr(socket.socket, "accept", fail)
        with pytest.raises(OSError) as caught:
            listener.accept()
        assert caught.value.errno == errno.EMFILE
        with pytest.raises(BlockingIOError):
            listener.accept()
    assert closed == [1]


@pytest.mark.parametrize(
    ("files", "least", "most"), [(64, 8, 32), (256, 8, 224), (1024, 8, 896), (10**6, 8192, 8192)]
)
def test_limit_follows_the_limit_of_files(
    files: int, least: int, most: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """There is always room for some connections, and always for other files beside them."""
    monkeypatch.setattr(resource, "getrlimit", lambda which: (files, files))
    assert least <= count_allowed_connections() <= most


def test_limit_where_the_system_has_none(monkeypatch: pytest.MonkeyPatch) -> None:
    """No limit of files still means a limit of connections, since each takes memory."""
    monkeypatch.setattr(resource, "getrlimit", lambda which: (resource.RLIM_INFINITY,) * 2)
    assert count_allowed_connections() == connections._MAX_CONNECTIONS
