"""Reading the body of a request: its type, its size, the time it takes, and its JSON."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

from fastapi import Request, Response
from fastapi.routing import APIRoute
from starlette.requests import ClientDisconnect

from .config import ApiConfig
from .errors import ApiError, ClientGoneError, invalid
from .strict_json import parse_json


class JsonRequest(Request):
    """A request whose body is read within the limits of the server's `ApiConfig`."""

    async def body(self) -> bytes:
        """Return the whole body.

        Raises:
            ApiError: 413, 408 or 400.
            ClientGoneError: the client left while sending.
        """
        if not hasattr(self, "_body"):
            self._body = await self._read()
        return self._body

    async def json(self) -> Any:
        """Return the body's value; see `strict_json.parse_json`."""
        return parse_json(await self.body())

    async def _read(self) -> bytes:
        config: ApiConfig = self.app.state.service.config
        length = self.headers.get("content-length", "0")
        if not length.isdecimal() or int(length[:18]) > config.max_body_bytes:
            raise _too_large(config)
        body = bytearray()
        try:
            async with asyncio.timeout(config.body_seconds):
                async for chunk in self.stream():  # counts also what has no Content-Length
                    body += chunk
                    if len(body) > config.max_body_bytes:
                        raise _too_large(config)
        except TimeoutError:
            raise ApiError(
                408, f"the body did not arrive within {config.body_seconds:g} seconds", "body_timeout"
            ) from None
        except ClientDisconnect:
            raise ClientGoneError from None
        if not body.strip():
            raise invalid("the body is empty; send a JSON object")
        return bytes(body)


class JsonRoute(APIRoute):
    """A route whose body is read by `JsonRequest`."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """Return the handler, with a `JsonRequest` that FastAPI takes for JSON even if no type is named."""
        handle = super().get_route_handler()

        async def handle_json(request: Request) -> Response:
            check_type(request)
            headers = [pair for pair in request.scope["headers"] if pair[0] != b"content-type"]
            scope = {**request.scope, "headers": [*headers, (b"content-type", b"application/json")]}
            return await handle(JsonRequest(scope, request.receive))

        return handle_json


def check_type(request: Request) -> None:
    """Refuse a body that is not declared as JSON; programs written for the original say nothing at all.

    Raises:
        ApiError: 415.
    """
    kind = request.headers.get("content-type", "application/json").partition(";")[0].strip().lower()
    if kind != "application/json":
        raise ApiError(
            415, f"Content-Type {kind[:80]!r} cannot be read; send application/json", "unsupported_media_type"
        )


def _too_large(config: ApiConfig) -> ApiError:
    return ApiError(
        413,
        f"the body is larger than {config.max_body_bytes} bytes, the limit of this server",
        "body_too_large",
    )
