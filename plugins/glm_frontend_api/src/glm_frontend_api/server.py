"""Binding, serving, and stopping without cutting anybody off; what ``glm run api`` starts."""

from __future__ import annotations

import errno
import socket
import sys
import time
from collections.abc import Mapping
from types import FrameType
from typing import Any

import uvicorn

from glm_core import ConfigError
from glm_core.records import OpenModel

from .app import build_app
from .config import ApiConfig, parse_config
from .service import Service

_SECONDS_AFTER_DRAINING = 5
_BACKLOG = 512


def run(open_model: OpenModel, options: Mapping[str, Any]) -> None:
    """Serve until SIGINT or SIGTERM; what ``glm run api`` starts.

    Args:
        open_model: opens the model; called once the options are right and the port is bound.
        options: as `plugin` lists them; all may be missing.

    Raises:
        ConfigError: an option is wrong, or the port is in use.
        GlmError: the model cannot be opened.
    """
    config = parse_config(options)
    # The port is bound first, so that one in use is refused before gigabytes are read.
    with bind(config) as listener, open_model() as model:
        service = Service(model, config)
        print_notice(f"serving {service.name} on {format_url(listener)} (Ctrl-C stops)")
        default = service.default_model()
        if default.adapter is not None:
            print_notice(
                f"'default' and POST / are {default.name}, the only adapter; without it: {service.name}"
            )
        if config.insecure and not config.on_loopback and config.api_key is None:
            print_notice("everybody who can reach this port may use the model, since --insecure is given")
        DrainingServer(service).run(sockets=[listener])
    print_notice("stopped")


def bind(config: ApiConfig) -> socket.socket:
    """Return a listening socket; clients that connect while the model is loaded wait.

    Raises:
        ConfigError: one sentence on what is in the way.
    """
    host, port = config.host.removeprefix("[").removesuffix("]"), config.port
    try:
        family, _, _, _, address = socket.getaddrinfo(
            host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        if host.lower() == "localhost":
            family, address = socket.AF_INET, ("127.0.0.1", port)
        both = host == "::" and socket.has_dualstack_ipv6()
        listener = socket.create_server(
            (str(address[0]), port), family=family, backlog=_BACKLOG, dualstack_ipv6=both
        )
        # asyncio switches Nagle's algorithm off only for sockets that say that they are TCP; with it
        # each small piece of a stream could wait 40 ms for the acknowledgement of the one before.
        return socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP, fileno=listener.detach())
    except socket.gaierror:
        raise ConfigError(f"--host {config.host}: no address of that name is known") from None
    except OSError as error:
        reasons = {
            errno.EADDRINUSE: f"port {port} on {host} is in use; stop what uses it, or pass another --port",
            errno.EADDRNOTAVAIL: f"this machine has no address {host}; pass one of its own to --host",
            errno.EACCES: f"port {port} may not be used by this user; pass a --port of 1024 or more",
        }
        reason = reasons.get(error.errno or 0, f"cannot listen on {host}, port {port}: {error.strerror}")
        raise ConfigError(reason) from None


def format_url(listener: socket.socket) -> str:
    """Return the URL of a listening socket."""
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def print_notice(line: str) -> None:
    """Print one line to standard error."""
    print(f"glm: {line}", file=sys.stderr, flush=True)


class DrainingServer(uvicorn.Server):
    """Uvicorn, except that a signal first lets running answers finish.

    Meanwhile it still listens, so that new requests get a 503 and not a refused connection.

    Args:
        service: what to serve.
    """

    def __init__(self, service: Service) -> None:
        super().__init__(
            uvicorn.Config(
                build_app(service),
                http="h11",  # always there, and what `_close_idle_connections` knows
                log_config=None,
                log_level="warning",
                access_log=False,
                proxy_headers=False,
                server_header=False,
                ws="none",
                lifespan="off",
                backlog=_BACKLOG,
                timeout_graceful_shutdown=_SECONDS_AFTER_DRAINING,
            )
        )
        self._service = service
        self._drain_until: float | None = None
        self._waiting_since: dict[object, float] = {}

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Drain at the first signal, stop at once at the second."""
        del sig, frame
        if self._drain_until is not None:
            self._drain_until = 0.0
            return
        self.drain()

    def drain(self) -> None:
        """Take nothing new, and stop when what runs is finished or the drain limit is reached."""
        self._service.draining = True
        self._drain_until = time.monotonic() + self._service.config.drain_seconds

    async def on_tick(self, counter: int) -> bool:
        """Return whether to stop; called by uvicorn ten times a second."""
        if counter % 10 == 0:
            self._close_idle_connections()
        if self._drain_until is not None:
            if not self._service.posts.taken:
                self.should_exit = True
            elif time.monotonic() >= self._drain_until:
                self._service.abort()
                self.should_exit = True
        return await super().on_tick(counter)

    def _close_idle_connections(self) -> None:
        """Close connections whose request does not arrive, and closed ones whose last bytes nobody reads.

        Uvicorn waits for both for ever, and each takes one of the process's open files.
        """
        now = time.monotonic()
        waiting: dict[object, float] = {}
        connections: set[Any] = set(self.server_state.connections)
        for connection in connections:
            cycle, transport = connection.cycle, connection.transport
            if cycle is None or cycle.response_complete or transport.is_closing():
                waiting[connection] = self._waiting_since.get(connection, now)
                if now - waiting[connection] > self._service.config.body_seconds:
                    transport.abort()
        self._waiting_since = waiting
