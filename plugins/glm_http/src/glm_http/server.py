"""Binding a port, serving an ASGI application, and stopping without cutting anybody off."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import signal
import socket
import threading
import time
from collections.abc import Iterator
from types import FrameType
from typing import Any, Protocol

import uvicorn
from starlette.types import ASGIApp

from glm_core import ConfigError

from .connections import ConnectionLimit, LimitedListener, count_allowed_connections, logger
from .logs import write_logs_on_thread
from .protocol import HttpProtocol

_SECONDS_AFTER_DRAINING = 5
_BACKLOG = 512
# A client that still sends a body which was refused may finish for as long, to read the refusal.
_LINGER_SECONDS = 5.0
# A connection is not closed for a new one before it was idle for as long: its request may be on the way.
_MIN_IDLE_SECONDS = 1.0
_START_SECONDS = 60.0


class Work(Protocol):
    """What a server lets finish before it stops."""

    def begin_draining(self) -> None:
        """Take nothing new."""

    def is_idle(self) -> bool:
        """Return whether nothing runs any more."""

    def abort(self) -> None:
        """End what still runs, with an error for whoever waits for it."""


class Server(uvicorn.Server):
    """Uvicorn, except that a signal first lets running answers finish, and that nothing from outside ends it.

    While it drains it still listens, so that new requests get a 503 and not a refused connection.

    Args:
        app: what to serve.
        work: what to let finish; ``None`` = nothing but the requests themselves.
        drain_seconds: how long that may take.
        body_seconds: in which the head of a request must have arrived, and a response be read.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        work: Work | None = None,
        drain_seconds: float = 30.0,
        body_seconds: float = 30.0,
    ) -> None:
        super().__init__(
            uvicorn.Config(
                app,
                http=HttpProtocol,
                loop="asyncio",  # another loop accepts connections without asking the `LimitedListener`
                log_config=None,
                # Of warnings there is one for each bad request, which any client could fill a disk with.
                log_level="error",
                access_log=False,
                proxy_headers=False,
                server_header=False,
                ws="none",
                lifespan="auto",
                backlog=_BACKLOG,
                timeout_graceful_shutdown=_SECONDS_AFTER_DRAINING,
            )
        )
        self._work = work
        self._drain_seconds = drain_seconds
        self._body_seconds = body_seconds
        self._drain_until: float | None = None
        self._stalled_since: dict[HttpProtocol, float] = {}

    def run(self, sockets: list[socket.socket] | None = None) -> None:
        """Serve until a signal, or `drain`, ends it."""
        with write_logs_on_thread():
            super().run(sockets)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Drain at the first signal, stop at once at the second."""
        del sig, frame
        if self._drain_until is not None:
            self._drain_until = 0.0
            return
        self.drain()

    def drain(self) -> None:
        """Take nothing new, and stop when what runs is finished or the drain limit is reached."""
        if self._work is not None:
            self._work.begin_draining()
        self._drain_until = time.monotonic() + self._drain_seconds

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Begin to listen; from here on connections are counted."""
        asyncio.get_running_loop().set_exception_handler(_handle_loop_error)
        limit = ConnectionLimit(count_allowed_connections(), self._close_longest_idle)
        for listener in sockets or ():
            if isinstance(listener, LimitedListener):
                listener.limit = limit
        await super().startup(sockets)

    async def on_tick(self, counter: int) -> bool:
        """Return whether to stop; called by uvicorn ten times a second."""
        if counter % 10 == 0:
            self._close_stalled_connections()
        if self._drain_until is not None:
            if self._work is None or self._work.is_idle():
                self.should_exit = True
            elif time.monotonic() >= self._drain_until:
                self._work.abort()
                self.should_exit = True
        return await super().on_tick(counter)

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Handle SIGHUP beside uvicorn's signals, unless whoever started this wants it ignored, as nohup."""
        hangup = getattr(signal, "SIGHUP", None)  # Windows has none
        in_main_thread = threading.current_thread() is threading.main_thread()
        if hangup is None or not in_main_thread or signal.getsignal(hangup) == signal.SIG_IGN:
            with super().capture_signals():
                yield
            return
        previous = signal.signal(hangup, self.handle_exit)
        try:
            with super().capture_signals():
                yield
        finally:
            signal.signal(hangup, previous)

    @property
    def _connections(self) -> list[HttpProtocol]:
        connections: set[Any] = set(self.server_state.connections)
        return [connection for connection in connections if isinstance(connection, HttpProtocol)]

    def _close_stalled_connections(self) -> None:
        """Close connections whose request does not arrive, and closed ones whose last bytes nobody reads.

        Uvicorn waits for both for ever, and each takes one of the process's open files.
        """
        now = time.monotonic()
        stalled: dict[HttpProtocol, float] = {}
        for connection in self._connections:
            if connection.is_waiting or connection.transport.is_closing():
                stalled[connection] = self._stalled_since.get(connection, now)
                limit = _LINGER_SECONDS if connection.has_unread_body else self._body_seconds
                if now - stalled[connection] > limit:
                    connection.transport.abort()
        self._stalled_since = stalled

    def _close_longest_idle(self) -> int:
        """Close the sixteenth part of all connections that have waited longest; return how many those are.

        Several at once, because looking for them takes as long as for one.
        """
        now = asyncio.get_running_loop().time()
        idle = [
            connection
            for connection in self._connections
            if connection.is_waiting
            and now - connection.waiting_since >= _MIN_IDLE_SECONDS
            and not connection.transport.is_closing()
        ]
        idle.sort(key=lambda connection: connection.waiting_since)
        chosen = idle[: max(len(self._connections) // 16, 1)]
        for connection in chosen:
            connection.transport.abort()
        return len(chosen)


@contextlib.contextmanager
def serve_on_thread(server: Server, listener: socket.socket) -> Iterator[None]:
    """Run a server on a thread for the length of a ``with`` block, and drain it at the end.

    Raises:
        RuntimeError: it ended, or did not come up, before it served.
    """

    def run() -> None:
        with contextlib.suppress(SystemExit):  # uvicorn's way to say that it logged why it cannot start
            server.run([listener])

    thread = threading.Thread(target=run, name="glm-http", daemon=True)
    thread.start()
    end = time.monotonic() + _START_SECONDS
    while not server.started:
        if not thread.is_alive() or time.monotonic() > end:
            raise RuntimeError("the HTTP server did not start; the log says why")
        time.sleep(0.005)
    try:
        yield
    finally:
        server.drain()
        thread.join()


def bind(host: str, port: int, *, dualstack: bool = True) -> LimitedListener:
    """Return a listening socket; clients that connect before a server takes it wait.

    Args:
        host: address or name; one of IPv6 may stand in brackets.
        port: TCP port; 0 = any free one.
        dualstack: whether ``::`` listens for IPv4 as well, where the system can.

    Raises:
        ConfigError: one sentence on what is in the way.
    """
    plain = host.removeprefix("[").removesuffix("]")
    try:
        family, _, _, _, address = socket.getaddrinfo(
            plain or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        if plain.lower() == "localhost":
            family, address = socket.AF_INET, ("127.0.0.1", port)
        both = dualstack and plain == "::" and socket.has_dualstack_ipv6()
        listener = socket.create_server(
            (str(address[0]), port), family=family, backlog=_BACKLOG, dualstack_ipv6=both
        )
        # asyncio switches Nagle's algorithm off only for sockets that say that they are TCP; with it
        # each small piece of a stream could wait 40 ms for the acknowledgement of the one before.
        return LimitedListener(family, socket.SOCK_STREAM, socket.IPPROTO_TCP, fileno=listener.detach())
    except socket.gaierror:
        raise ConfigError(f"--host {host}: no address of that name is known") from None
    except OSError as error:
        reasons = {
            errno.EADDRINUSE: f"port {port} on {plain} is in use; stop what uses it, or pass another --port",
            errno.EADDRNOTAVAIL: f"this machine has no address {plain}; pass one of its own to --host",
            errno.EACCES: f"port {port} may not be used by this user; pass a --port of 1024 or more",
        }
        reason = reasons.get(error.errno or 0, f"cannot listen on {plain}, port {port}: {error.strerror}")
        raise ConfigError(reason) from None


def format_url(listener: socket.socket) -> str:
    """Return the URL of a listening socket."""
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def _handle_loop_error(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """Log what nobody caught, except what the `ConnectionLimit` has told already."""
    if context.get("message") == "socket.accept() out of system resource":
        logger.debug("no connection can be accepted: %s", context.get("exception"))
        return
    loop.default_exception_handler(context)
