"""The ASGI middleware in front of an application: checks first, and a body that is counted while it comes."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence

from starlette.datastructures import Headers
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from .paths import normalize_path
from .refusals import RefusalError

# Of each body what is not counted together with others, so that short requests get through while somebody
# fills the memory with long ones.
_UNCOUNTED_BYTES = 16 * 1024

Check = Callable[[Scope, Headers], None]
"""Looks at the head of a request; raises `RefusalError` to turn it away."""


class Gate:
    """Checks the head of every HTTP request, then passes its body on within limits.

    Nothing of a body is read before all checks have passed. Websockets are turned away, since no frontend
    here has any; the life of a server is passed through.

    Args:
        app: what answers.
        checks: asked in this order; the first that raises decides.
        max_body_bytes: of the body of a request, given its scope.
        max_bytes_at_once: of all long bodies that have come and are not answered yet; ``None`` = no limit,
            for an application that counts its requests itself.
        body_seconds: in which a body must have arrived; ``None`` = no limit.
        build_refusal: makes the response of a request that is turned away.
        root_path: path under which a proxy serves this; taken away from the paths of requests.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        checks: Sequence[Check] = (),
        max_body_bytes: Callable[[Scope], int],
        max_bytes_at_once: int | None = None,
        body_seconds: float | None = 30.0,
        build_refusal: Callable[[Scope, RefusalError], Response],
        root_path: str = "",
    ) -> None:
        self._app = app
        self._checks = (_check_framing, *checks)
        self._max_body_bytes = max_body_bytes
        self._memory = _BodyMemory(max_bytes_at_once)
        self._body_seconds = body_seconds
        self._build_refusal = build_refusal
        self._root_path = root_path

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let a request through, or answer it here."""
        if scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})
        elif scope["type"] == "http":
            scope = {**scope, "path": normalize_path(scope["path"], self._root_path)}
            await self._pass(scope, receive, send)
        else:
            await self._app(scope, receive, send)

    async def _pass(self, scope: Scope, receive: Receive, send: Send) -> None:
        limit = self._max_body_bytes(scope)
        headers = Headers(scope=scope)
        try:
            for check in self._checks:
                check(scope, headers)
            _check_declared_length(headers, limit)
        except RefusalError as refusal:
            await self._refuse(scope, receive, send, refusal)
            return
        body = _CountedBody(receive, limit, self._body_seconds, self._memory)
        answer = _Answer(send, body)
        try:
            await self._app(scope, body.receive, answer.send)
        except Exception as error:
            if body.refusal is None:
                if answer.is_started or not isinstance(error, RefusalError):
                    raise
                body.refusal = error  # of what the application found in the body
        finally:
            body.release()
        # Whatever the application made of the refusal (frameworks turn it into a 400), this is the answer.
        if body.refusal is not None and not answer.is_started:
            await self._refuse(scope, receive, send, body.refusal)

    async def _refuse(self, scope: Scope, receive: Receive, send: Send, refusal: RefusalError) -> None:
        response = self._build_refusal(scope, refusal)
        if refusal.code == "ambiguous_length":  # where this request ends, the next one cannot be told from it
            response.headers["connection"] = "close"
        await response(scope, receive, send)


class _BodyMemory:
    """Counts the bytes of all long bodies that are held at the same time.

    Args:
        limit: how many there may be; ``None`` = any number.
    """

    def __init__(self, limit: int | None) -> None:
        self._limit = limit
        self._taken = 0

    def take(self, count: int) -> bool:
        """Take room for bytes; return ``False`` where there is none."""
        if self._limit is not None and self._taken + count > self._limit:
            return False
        self._taken += count
        return True

    def give_back(self, count: int) -> None:
        """Give room back."""
        self._taken -= count


class _CountedBody:
    """The body of a request, counted while it comes."""

    def __init__(self, receive: Receive, limit: int, seconds: float | None, memory: _BodyMemory) -> None:
        self._receive = receive
        self._limit = limit
        self._seconds = seconds
        self._deadline: float | None = None
        self._count = 0
        self._memory = memory
        self._held = 0
        self._is_whole = False
        self.refusal: RefusalError | None = None

    async def receive(self) -> Message:
        """Return the next message.

        Raises:
            RefusalError: the body is too large, comes too slowly, or comes together with too many others.
        """
        if self.refusal is not None:  # an application that tries again gets no more of it
            raise self.refusal
        message = await (self._receive() if self._is_whole else self._receive_in_time())
        if message["type"] != "http.request":
            return message
        self._count += len(message.get("body", b""))
        if self._count > self._limit:
            self.refusal = _build_too_large_error(self._limit)
            raise self.refusal
        more = max(self._count - _UNCOUNTED_BYTES, 0) - self._held
        if not self._memory.take(more):
            self.refusal = RefusalError(
                503,
                "too_many_bodies",
                "too many long requests are arriving; try again in a moment",
                {"retry-after": "1"},
            )
            raise self.refusal
        self._held += more
        self._is_whole = not message.get("more_body", False)
        return message

    def release(self) -> None:
        """Count it no longer, because its request has been answered."""
        self._memory.give_back(self._held)
        self._held = 0

    async def _receive_in_time(self) -> Message:
        if self._seconds is None:
            return await self._receive()
        # From the first look at the body on, whatever number of pieces it comes in.
        self._deadline = self._deadline or time.monotonic() + self._seconds
        try:
            async with asyncio.timeout(max(self._deadline - time.monotonic(), 0)):
                return await self._receive()
        except TimeoutError:
            self.refusal = RefusalError(
                408, "body_timeout", f"the body did not arrive within {self._seconds:g} seconds"
            )
            raise self.refusal from None


class _Answer:
    """What an application sends, held back where its request was refused meanwhile."""

    def __init__(self, send: Send, body: _CountedBody) -> None:
        self._send = send
        self._body = body
        self.is_started = False

    async def send(self, message: Message) -> None:
        """Pass a message on, unless the refusal is going to be sent in its place."""
        if self._body.refusal is not None and not self.is_started:
            return
        self.is_started = True
        await self._send(message)


def _check_framing(scope: Scope, headers: Headers) -> None:
    """Refuse a request that says in two ways how long its body is.

    A proxy in front may believe the other one, and take the rest of this body for the next request.
    """
    if "transfer-encoding" in headers and "content-length" in headers:
        raise RefusalError(
            400,
            "ambiguous_length",
            "the request has both Content-Length and Transfer-Encoding; send only one of them",
        )


def _check_declared_length(headers: Headers, limit: int) -> None:
    length = headers.get("content-length", "0")
    # A number of more digits than this is too large for any body, and would take long to read.
    if not length.isdecimal() or len(length) > 18 or int(length) > limit:
        raise _build_too_large_error(limit)


def _build_too_large_error(limit: int) -> RefusalError:
    return RefusalError(
        413, "body_too_large", f"the body is larger than {limit} bytes, the limit of this server"
    )
