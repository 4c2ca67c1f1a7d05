"""Reading the body of a request: its type, its JSON and its fields, without holding up the event loop.

How large a body may be, and how long it may take to come, is the `glm_http.gate.Gate`'s business.
"""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from fastapi import Request, Response
from fastapi.routing import APIRoute
from pydantic import BaseModel, ValidationError
from starlette.requests import ClientDisconnect
from starlette.types import Receive, Scope

from .errors import ApiError, ClientGoneError, build_invalid_error
from .strict_json import parse_json
from .validation import describe_refusal

T = TypeVar("T")
Model = TypeVar("Model", bound=BaseModel)
# Whatever they hold, bodies up to here cost a few milliseconds, and most requests are no longer.
_SMALL_BODY_BYTES = 16 * 1024
# Reading holds Python's lock most of the time, so that more threads would only slow the event loop down.
_READERS = ThreadPoolExecutor(2, thread_name_prefix="glm-bodies")


class JsonRequest(Request):
    """A request whose body is read, parsed and checked before its route runs.

    Args:
        scope: of the request.
        receive: of the request.
        model: what the body has to be.
    """

    def __init__(self, scope: Scope, receive: Receive, model: type[BaseModel]) -> None:
        super().__init__(scope, receive)
        self._model = model
        self._content = b""
        self._value: BaseModel | None = None

    async def load(self) -> None:
        """Read the body and check it.

        Raises:
            RefusalError: it is too large, or did not come in time.
            ApiError: 400, naming what is wrong in it.
            ClientGoneError: the client left while sending.
        """
        try:
            self._content = b"".join([chunk async for chunk in self.stream()])
        except ClientDisconnect:
            raise ClientGoneError from None
        if not self._content.strip():
            raise build_invalid_error("the body is empty; send a JSON object")
        self._value = await run_beside_loop(self, functools.partial(read_model, self._content, self._model))

    async def body(self) -> bytes:
        """Return the whole body."""
        return self._content

    async def json(self) -> BaseModel | None:
        """Return the body as its model, which FastAPI then takes as it is."""
        return self._value


class JsonRoute(APIRoute):
    """A route whose body is read by `JsonRequest`."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """Return the handler, with a `JsonRequest` that FastAPI takes for JSON even if no type is named."""
        handle = super().get_route_handler()
        assert self.body_field is not None, "a route for bodies declares none"
        model: Any = self.body_field.field_info.annotation

        async def handle_json(request: Request) -> Response:
            check_type(request)
            headers = [pair for pair in request.scope["headers"] if pair[0] != b"content-type"]
            scope = {**request.scope, "headers": [*headers, (b"content-type", b"application/json")]}
            json_request = JsonRequest(scope, request.receive, model)
            # Here and not when FastAPI asks: it would turn every failure into "400, error parsing the body".
            await json_request.load()
            return await handle(json_request)

        return handle_json


async def run_beside_loop(request: Request, function: Callable[[], T]) -> T:
    """Return what a function of a request's body returns; it runs on a thread where the body is large.

    Args:
        request: its body has been read.
        function: takes at most a tenth of a second for a body within the limits of `strict_json`.
    """
    if len(await request.body()) <= _SMALL_BODY_BYTES:
        return function()
    return await asyncio.get_running_loop().run_in_executor(_READERS, function)


def read_model(body: bytes, model: type[Model]) -> Model:
    """Return the model that a JSON text describes.

    Raises:
        ApiError: 400, naming what is wrong and where.
    """
    try:
        return model.model_validate(parse_json(body))
    except ValidationError as error:
        raise describe_refusal(error.errors(include_url=False, include_context=False)) from None


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
