"""Sending: server-sent events with an end to slow readers, and noticing clients that leave."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import json
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine
from typing import Any, TypeVar

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from .errors import ClientGoneError, StreamStalledError, translate_error
from .generation import Generation
from .problem_log import log_problem
from .service import Service

COMMENT = b": waiting\n\n"
DONE = b"data: [DONE]\n\n"
T = TypeVar("T")


def encode_event(value: Any) -> bytes:
    """Encode one server-sent event.

    Some clients split lines also at Unicode's line ends, so those are escaped.
    """
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    for character in "\u2028\u2029\x85":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return f"data: {text}\n\n".encode()


class EventStream(Response):
    """A response that is sent while the answers are generated.

    Args:
        service: limits and metrics.
        generation: entered already; it is closed at the end, however that comes.
        events: encoded events; an exception becomes an event of its own, and the end.
    """

    media_type = "text/event-stream"

    def __init__(self, service: Service, generation: Generation, events: AsyncGenerator[bytes, None]) -> None:
        super().__init__(headers={"cache-control": "no-cache", "x-accel-buffering": "no"})
        del self.headers["content-length"]
        self._service = service
        self._generation = generation
        self._events = events
        self._is_open = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send until the end, or until the client leaves or does not read."""
        try:
            await run_unless_gone(receive, self._send_all(send), functools.partial(self._send_comment, send))
        except (ClientGoneError, StreamStalledError):
            self._service.metrics.disconnects.inc()
        finally:
            self._generation.close()
            await self._events.aclose()

    async def _send_all(self, send: Send) -> None:
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        self._is_open = True
        try:
            async for data in self._events:
                await self._send(send, data)
        except (asyncio.CancelledError, StreamStalledError):
            raise
        except Exception as problem:  # the status has been sent, so that the client is told in the stream
            await self._send(send, encode_event(self._build_error_body(problem)))
        self._is_open = False
        await self._send(send, b"", more=False)

    async def _send_comment(self, send: Send) -> None:
        """Send what every client skips; a stream that waits would otherwise not find out who has gone."""
        if self._is_open:
            await self._send(send, COMMENT)

    async def _send(self, send: Send, data: bytes, *, more: bool = True) -> None:
        """Give data to the socket; it waits while what was given before is still unread."""
        try:
            async with asyncio.timeout(self._service.config.stall_seconds):
                await send({"type": "http.response.body", "body": data, "more_body": more})
        except TimeoutError:
            raise StreamStalledError from None

    def _build_error_body(self, problem: Exception) -> Any:
        error = translate_error(problem)
        self._service.metrics.errors.labels(error.code or "invalid_request").inc()
        if error.status_code >= 500:
            log_problem(problem)
        return error.build_body()


async def run_unless_gone(
    receive: Receive, work: Coroutine[Any, Any, T], probe: Callable[[], Awaitable[None]] | None = None
) -> T:
    """Return what ``work`` returns; cancel it as soon as the client leaves.

    Args:
        receive: of a request whose body has been read.
        work: what the client waits for.
        probe: called when the client sends nothing more and may have gone; sends it something.

    Raises:
        ClientGoneError: the client left first.
    """
    working = asyncio.ensure_future(work)
    watching = asyncio.ensure_future(_wait_until_gone(receive, probe))
    try:
        await asyncio.wait((working, watching), return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise ClientGoneError
        return working.result()
    finally:
        for task in (working, watching):
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError, Exception):  # its result was taken above
                await task


async def run_for_client(request: Request, work: Coroutine[Any, Any, T]) -> T:
    """Do as `run_unless_gone`, for a request."""
    return await run_unless_gone(request.receive, work)


async def _wait_until_gone(receive: Receive, probe: Callable[[], Awaitable[None]] | None) -> None:
    # The body has been read, so that another message can only say that the client closed its half.
    while (await receive())["type"] != "http.disconnect":
        if probe is not None:
            await probe()
