"""HTTP as uvicorn speaks it, mended where clients could be cut off or hurt the server."""

from __future__ import annotations

import asyncio
import socket
from typing import Any, cast

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol, RequestResponseCycle

# The first bytes of every response, whatever its status.
_PREFIX = b"HTTP/1.1 "
# Most answers are there before that, and then nothing has to be sent ahead to see whether the client is.
_SECONDS_BEFORE_ASKING = 0.5
_SECONDS_BETWEEN_LOOKS = 0.25
# Of a request line with its headers. Uvicorn allows 64 KB, which may be ten thousand headers, and those take
# the event loop a tenth of a second.
_MAX_HEAD_BYTES = 32 * 1024
# Of a body that nobody wants: enough for most clients to finish and read the refusal.
_MAX_DISCARDED_BYTES = 64 * 2**20
# Each piece of a body costs some ten microseconds, so that a megabyte in pieces of one byte would take the
# event loop ten seconds. Real clients send kilobytes at a time, and a small body may come in any pieces.
_FREE_PIECES = 2000
_BYTES_FOR_A_PIECE = 256


class _PieceLimit(h11.Connection):
    """An HTTP connection on which a body in absurdly many pieces counts as a fault of the client."""

    _pieces: int = 0
    _bytes: int = 0

    def next_event(self) -> Any:
        """Return the next event.

        Raises:
            RemoteProtocolError: the client breaks the protocol, or the body comes in crumbs.
        """
        event = super().next_event()
        if isinstance(event, h11.Data):
            self._pieces += 1
            self._bytes += len(event.data)
            if self._pieces > _FREE_PIECES + self._bytes // _BYTES_FOR_A_PIECE:
                raise h11.RemoteProtocolError("the body comes in too many pieces")
        elif isinstance(event, h11.Request):
            self._pieces = self._bytes = 0
        return event


class HttpProtocol(H11Protocol):
    """One connection.

    A client may close its half of the connection once its request is sent and still wait for the answer. A
    client that has left altogether looks the same at first; it is told apart by sending something, which the
    system at the other end then refuses.

    Attributes:
        waiting_since: time of the event loop since which no request is being answered here.
    """

    waiting_since: float = 0.0
    cycle: RequestResponseCycle | None  # type: ignore[assignment]  # uvicorn declares it without None
    _is_half_closed: bool = False
    _discarded_bytes: int = 0

    @property
    def is_waiting(self) -> bool:
        """Whether no request is being answered; part of one may have come."""
        return self.cycle is None or self.cycle.response_complete

    @property
    def has_unread_body(self) -> bool:
        """Whether the client still sends the body of a request that has been answered."""
        return self.is_waiting and self.conn.their_state is h11.SEND_BODY

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin to wait for the first request."""
        super().connection_made(transport)
        self.conn = _PieceLimit(h11.SERVER, self.config.h11_max_incomplete_event_size or _MAX_HEAD_BYTES)
        self.waiting_since = self.loop.time()

    def data_received(self, data: bytes) -> None:
        """Take in what the client sends; one that goes on sending what nobody wants is cut off."""
        if self.has_unread_body:
            self._discarded_bytes += len(data)
            if self._discarded_bytes > _MAX_DISCARDED_BYTES:
                self.transport.abort()
                return
        # h11 looks at the size of a head only while it is incomplete, so it gets a large read in parts.
        for start in range(0, len(data), _MAX_HEAD_BYTES):
            if self.transport.is_closing():
                return
            super().data_received(data[start : start + _MAX_HEAD_BYTES])

    def eof_received(self) -> bool:  # type: ignore[override]
        """Return whether to keep the connection: while an answer to a whole request is being made."""
        cycle = self.cycle
        if cycle is None or cycle.response_complete or cycle.more_body:
            return False
        if not self._is_half_closed:
            self._is_half_closed = True
            self.loop.call_later(_SECONDS_BEFORE_ASKING, self._send_ahead, cycle)
        return True

    def on_response_complete(self) -> None:
        """Begin to wait for the next request, if the client can send one."""
        super().on_response_complete()
        self.waiting_since = self.loop.time()
        if not self._is_half_closed or self.transport.is_closing():
            return
        if self.is_waiting:
            self.transport.close()
        else:  # one more request came before the client closed its half
            self.loop.call_later(
                _SECONDS_BEFORE_ASKING, self._send_ahead, cast(RequestResponseCycle, self.cycle)
            )

    def send_400_response(self, msg: str) -> None:
        """Answer what is not HTTP; where an answer has begun that cannot be said any more."""
        if self.conn.our_state not in (h11.IDLE, h11.SEND_RESPONSE) or self._is_half_closed:
            self.transport.abort()
            return
        if self.cycle is not None and not self.cycle.response_complete:
            self.cycle.disconnected = True  # the application waits for the body, and must not answer as well
            self.cycle.message_event.set()
        super().send_400_response(msg)

    def _unsupported_upgrade_warning(self) -> None:
        """Say nothing: uvicorn would advise to install things for what is not offered here."""

    def _send_ahead(self, cycle: RequestResponseCycle) -> None:
        """Send the first bytes of the response, which the system of a client that has gone refuses.

        Where the response has begun, only the application knows what may come next. It gets one more message
        of an empty body, which tells a stream to send something.
        """
        if cycle.response_started:
            cycle.message_event.set()
        elif not self.transport.is_closing():
            self.transport.write(_PREFIX)
            cycle.transport = cast(asyncio.Transport, _BegunTransport(self.transport, _PREFIX))
        self._look_for_client()

    def _look_for_client(self) -> None:
        """Give the request up if the client has gone; look again until it is answered."""
        if self.is_waiting or self.transport.is_closing():
            return
        connection: Any = self.transport.get_extra_info("socket")
        # asyncio no longer reads from the socket, so it would hear of a refusal only when it writes again.
        if connection is not None and connection.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
            self.transport.abort()
            return
        self.loop.call_later(_SECONDS_BETWEEN_LOOKS, self._look_for_client)


class _BegunTransport:
    """A transport on which the first bytes of the response have been sent already."""

    def __init__(self, transport: asyncio.Transport, sent: bytes) -> None:
        self._transport = transport
        self._sent = sent

    def write(self, data: bytes) -> None:
        """Write what has not been sent."""
        if self._sent:
            assert data.startswith(self._sent), "a response does not begin as all do"
            data, self._sent = data[len(self._sent) :], b""
        self._transport.write(data)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)
