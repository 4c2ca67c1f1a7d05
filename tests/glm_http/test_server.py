"""Binding, and stopping without cutting anybody off."""

from __future__ import annotations

import os
import signal
import socket
import sys

import pytest
from child_process import ChildProcess
from glm_http.server import Server, bind, format_url, serve_on_thread
from http_support import SUPPORT, EchoApp, build_request, guard, read_all, serving_app
from patience import PATIENCE_SECONDS, wait_until
from starlette.types import Receive, Scope, Send

from glm_core import ConfigError

SERVER = """
import logging, sys, threading
logging.basicConfig()
from http_support import EchoApp, guard
from glm_http.logs import open_standard_files, print_notice
from glm_http.server import Server, bind
open_standard_files()
app = EchoApp()
class Work:
    def begin_draining(self):
        print("draining", flush=True)
    def is_idle(self):
        return app.released
    def abort(self):
        print("aborted", flush=True)
threading.Thread(target=lambda: [setattr(app, "released", True) for line in sys.stdin], daemon=True).start()
with bind("127.0.0.1", 0) as listener:
    print("port", listener.getsockname()[1], flush=True)
    for _ in range(2000):
        print_notice("x" * 100)
    logging.warning("x" * 1000)
    Server(guard(app, 1000), work=Work(), drain_seconds=600).run([listener])
print_notice("stopped")
print("stopped", flush=True)
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_signals_let_running_answers_finish(number: int) -> None:
    """A request that runs is answered; then the process ends as if nothing had happened."""
    with ChildProcess(sys.executable, "-c", SERVER, folder=SUPPORT) as process:
        port = int(process.wait_for(r"port (\d+)")[1])
        with socket.create_connection(("127.0.0.1", port), timeout=PATIENCE_SECONDS) as client:
            client.sendall(build_request("/wait", b"hello"))
            with socket.create_connection(("127.0.0.1", port), timeout=PATIENCE_SECONDS) as other:
                other.sendall(build_request("/"))  # once it is answered, the first has begun
                assert b" 200 " in read_all(other)
            process.send_signal(number)
            process.wait_for("draining")
            process.write("release\n")
            assert read_all(client).endswith(b"hello")
        done = process.finish()
    assert done.returncode == 0
    assert done.stdout.splitlines()[-1] == "stopped"


def test_hangup_is_ignored_where_whoever_started_it_says_so() -> None:
    """``nohup`` has a process ignore the signal, and it stays ignored."""
    code = "import signal; signal.signal(signal.SIGHUP, signal.SIG_IGN)\n" + SERVER
    with ChildProcess(sys.executable, "-c", code, folder=SUPPORT) as process:
        port = int(process.wait_for(r"port (\d+)")[1])
        with socket.create_connection(("127.0.0.1", port), timeout=PATIENCE_SECONDS) as client:
            client.sendall(build_request("/"))
            read_all(client)
        process.send_signal(signal.SIGHUP)
        with socket.create_connection(("127.0.0.1", port), timeout=PATIENCE_SECONDS) as client:
            client.sendall(build_request("/", b"still here"))
            assert read_all(client).endswith(b"still here")
        assert "draining" not in process.output


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="this system has no device that is always full")
def test_full_disk_for_the_log_stops_nobody() -> None:
    """Standard error on a full disk: the server starts, serves and stops."""
    with open("/dev/full", "w") as full:
        with ChildProcess(sys.executable, "-c", SERVER, folder=SUPPORT, stderr=full.fileno()) as process:
            port = int(process.wait_for(r"port (\d+)")[1])
            with socket.create_connection(("127.0.0.1", port), timeout=PATIENCE_SECONDS) as client:
                client.sendall(build_request("/", b"hello"))
                assert read_all(client).endswith(b"hello")
            process.write("release\n")
            process.send_signal(signal.SIGTERM)
            process.wait_for("stopped")


def test_closed_standard_error_stops_nobody() -> None:
    """A process without files 0 to 2 serves, and no connection takes their numbers."""
    code = "import os; os.close(2)\n" + SERVER
    with ChildProcess(sys.executable, "-c", code, folder=SUPPORT) as process:
        port = int(process.wait_for(r"port (\d+)")[1])
        with socket.create_connection(("127.0.0.1", port), timeout=PATIENCE_SECONDS) as client:
            client.sendall(build_request("/", b"hello"))
            answer = read_all(client)
        process.write("release\n")
        process.send_signal(signal.SIGTERM)
        process.wait_for("stopped")
    assert answer.endswith(b"hello")
    assert answer.startswith(b"HTTP/1.1 200")


def test_request_that_does_not_arrive_is_given_up() -> None:
    """Half a head holds a connection only for a while."""
    with serving_app(guard(EchoApp()), body_seconds=0.2) as running, running.connect() as client:
        client.sendall(b"POST / HTTP/1.1\r\nHost:")
        assert read_all(client) == b""


def test_answer_that_nobody_reads_is_given_up() -> None:
    """A client that takes nothing of its answer holds its connection only for a while."""

    async def answer_much(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"x" * 50_000_000})

    with serving_app(answer_much, body_seconds=0.2) as running, running.connect() as client:
        client.sendall(build_request("/"))
        wait_until(lambda: running.server.server_state.total_requests == 1)
        wait_until(lambda: not running.server.server_state.connections)


def test_server_that_cannot_start_is_an_error() -> None:
    """Who waits for it is told."""

    async def fail(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await receive()
            await send({"type": "lifespan.startup.failed", "message": "no"})

    with bind("127.0.0.1", 0) as listener:
        with pytest.raises(RuntimeError, match="did not start"), serve_on_thread(Server(fail), listener):
            raise AssertionError("it started")


@pytest.mark.parametrize(
    ("host", "message"),
    [
        ("no.such.host.invalid", "no address of that name"),
        ("192.0.2.1", "this machine has no address 192.0.2.1"),
    ],
)
def test_host_that_cannot_be_bound_is_one_sentence(host: str, message: str) -> None:
    """The sentence has the value and the option."""
    with pytest.raises(ConfigError, match=message):
        bind(host, 0)


def test_port_in_use_is_one_sentence() -> None:
    """The sentence has the port and the option."""
    with bind("127.0.0.1", 0) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ConfigError, match=f"port {port} .*--port"):
            bind("127.0.0.1", port)


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1"])
def test_address_is_shown_as_a_url(host: str) -> None:
    """The URL has the port that was given by the system."""
    with bind(host, 0) as listener:
        assert format_url(listener) == f"http://127.0.0.1:{listener.getsockname()[1]}"
