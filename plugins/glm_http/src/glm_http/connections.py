"""Keeping the number of connections below the limit of open files.

Without that, a few hundred idle clients take the last file that the process may open, and then nothing works:
no connection can be accepted, no module imported, no log written. So connections are counted as they are
accepted; at the limit those that wait for nothing are closed for new ones, and where every one is at work the
newcomer gets a 503.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import socket
import time
from collections.abc import Callable
from pathlib import Path

logger = logging.getLogger("glm.http")

# For what the process opens besides: files of adapters, modules, the selector, a child's pipes.
_MIN_SPARE_FILES = 32
# Where the system tells no limit, or a very high one: each connection also takes memory.
_MAX_CONNECTIONS = 8192
_MIN_CONNECTIONS = 8
_SECONDS_BETWEEN_LINES = 60.0
# The kernel keeps reporting a waiting connection, so that a loop which could not take it would spin.
_SECONDS_OF_PAUSE = 0.5
# Looking through all connections for idle ones takes longer than turning a client away.
_SECONDS_WITHOUT_LOOKING = 0.1
_EXHAUSTED = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})
_REASON = b"all connections are taken; try again in a moment"
_TURNED_AWAY = (
    b"HTTP/1.1 503 Service Unavailable\r\ncontent-type: text/plain; charset=utf-8\r\n"
    b"retry-after: 1\r\nconnection: close\r\ncontent-length: %d\r\n\r\n%s" % (len(_REASON), _REASON)
)


def count_allowed_connections() -> int:
    """Return how many connections this process may hold, given its limit of open files and what is open."""
    try:
        import resource
    except ImportError:  # Windows has no such limit
        return _MAX_CONNECTIONS
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY:
        return _MAX_CONNECTIONS
    spare = max(_MIN_SPARE_FILES, soft // 8)
    return max(min(soft - _count_open_files() - spare, _MAX_CONNECTIONS), _MIN_CONNECTIONS)


class ConnectionLimit:
    """Counts the connections of a server.

    Args:
        limit: how many may be open.
        close_idle: closes some connections that wait for nothing, and returns how many; they count until
            the event loop has closed them.

    Attributes:
        open: how many are.
    """

    def __init__(self, limit: int, close_idle: Callable[[], int]) -> None:
        self.limit = limit
        self.open = 0
        self._close_idle = close_idle
        self._told_at = -_SECONDS_BETWEEN_LINES
        self._paused_until = 0.0
        self._no_room_until = 0.0

    @property
    def is_paused(self) -> bool:
        """Whether the system had no file to give a moment ago."""
        return time.monotonic() < self._paused_until

    def make_room(self) -> bool:
        """Return whether idle connections are being closed for a new one."""
        now = time.monotonic()
        if now < self._no_room_until:
            return False
        self._tell(f"all {self.limit} connections that the limit of open files allows are taken")
        if self._close_idle() > 0:
            return True
        self._no_room_until = now + _SECONDS_WITHOUT_LOOKING
        return False

    def pause(self) -> None:
        """Note that the system has no file to give; accepting rests for a moment."""
        self._paused_until = time.monotonic() + _SECONDS_OF_PAUSE
        self._close_idle()
        self._tell(f"the system gives no more files, with {self.open} connections open")

    def _tell(self, problem: str) -> None:
        """Log one line, but not again within a minute, since every new client would cause another."""
        now = time.monotonic()
        if now - self._told_at >= _SECONDS_BETWEEN_LINES:
            self._told_at = now
            logger.warning(
                "%s; idle ones are closed for new ones, and beyond that clients get a 503. "
                "ulimit -n raises the limit",
                problem,
            )


class LimitedListener(socket.socket):
    """A listening socket that accepts no more connections than its limit allows.

    The limit is kept here, in ``accept``, because asyncio accepts hundreds of connections at one go, before
    any protocol hears of the first.

    Attributes:
        limit: ``None`` until a server takes the socket; anything goes until then.
    """

    limit: ConnectionLimit | None = None

    def accept(self) -> tuple[socket.socket, object]:
        """Accept a connection that may be served; turn away those that may not.

        Raises:
            BlockingIOError: none waits, or room is being made and the event loop should ask again.
            OSError: the system has no file to give; once, and then BlockingIOError for a moment.
        """
        limit = self.limit
        if limit is None:
            return super().accept()
        while not limit.is_paused:
            if limit.open >= limit.limit and limit.make_room():
                break
            try:
                connection, address = super().accept()
            except OSError as error:
                if error.errno in _EXHAUSTED:
                    limit.pause()
                raise
            if limit.open < limit.limit:
                return _CountedConnection(connection, limit), address
            _turn_away(connection)
        raise BlockingIOError(errno.EAGAIN, "no connection can be accepted now")


class _CountedConnection(socket.socket):
    """A connection that counts from here until it is closed."""

    def __init__(self, connection: socket.socket, limit: ConnectionLimit) -> None:
        family, kind, protocol = connection.family, connection.type, connection.proto
        super().__init__(family, kind, protocol, fileno=connection.detach())
        self._limit: ConnectionLimit | None = limit
        limit.open += 1

    def close(self) -> None:
        """Close it; it counts no longer."""
        super().close()
        if self._limit is not None:
            self._limit.open -= 1
            self._limit = None


def _turn_away(connection: socket.socket) -> None:
    with contextlib.suppress(OSError):  # the client may have gone, and then nobody is to be told
        connection.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            # Closing a socket with unread bytes makes the system throw the answer away.
            connection.recv(65536)
        connection.send(_TURNED_AWAY)
        connection.shutdown(socket.SHUT_WR)
    connection.close()


def _count_open_files() -> int:
    for folder in ("/proc/self/fd", "/dev/fd"):
        with contextlib.suppress(OSError):
            return len(os.listdir(Path(folder)))
    return 64  # an ordinary process of ours, where the system does not tell
