"""Refusals: which status they have and how they look.

Under every route but the original's, an error is OpenAI's ``{"error": {"message", "type", "param",
"code"}}``; on ``POST /`` it is ``{"error": SENTENCE, "status": NUMBER, "time": TIME}``.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any, Literal

from fastapi import HTTPException
from glm_http.refusals import RefusalCode, RefusalError
from starlette.responses import JSONResponse, Response

from glm_core import (
    AdapterError,
    BusyError,
    ClosedError,
    GlmError,
    OutOfMemoryError,
    RequestError,
)

# Beside those of `glm_http.refusals`.
Code = Literal[
    "unknown_field",
    "unsupported_field",
    "missing_field",
    "model_not_found",
    "not_found",
    "method_not_allowed",
    "unsupported_media_type",
    "queue_full",
    "too_many_requests",
    "model_failed",
    "adapter_failed",
    "adapter_exists",
    "adapter_not_found",
    "adapter_refused",
    "adapters_not_allowed",
    "api_key_required",
    "path_not_allowed",
    "internal_error",
    "model_closed",
    "out_of_memory",
    "time_limit_reached",
]
TIME_FORMAT = "%Y-%m-%d %H:%M:%S"
RETRY_AFTER = {"retry-after": "1"}
# Clients of OpenAI repeat a request after most 5xx by themselves; after these it would fail again.
NO_RETRY = {"x-should-retry": "false"}
_TYPES = {429: "rate_limit_error"}


class ApiError(HTTPException):
    """A request that is refused, or an answer that failed.

    A kind of `HTTPException`, because FastAPI passes only those on from the reading of a body.

    Args:
        status: HTTP status.
        message: for the person at the other end.
        code: what programs look at.
        param: the field that is wrong.
        headers: to send with it.
    """

    def __init__(
        self,
        status: int,
        message: str,
        code: Code | RefusalCode | None = None,
        *,
        param: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(status, message, dict(headers or {}))
        self.message = message
        self.code = code
        self.param = param

    def build_body(self) -> dict[str, Any]:
        """Return the error as OpenAI's clients read it."""
        kind = _TYPES.get(
            self.status_code, "server_error" if self.status_code >= 500 else "invalid_request_error"
        )
        return {
            "error": {"message": self.message, "type": kind, "param": self.param, "code": self.code},
        }


class StreamStalledError(Exception):
    """The client does not read its stream."""


class ClientGoneError(Exception):
    """The client closed its connection before it had the answer."""


def build_invalid_error(message: str, param: str | None = None, code: Code | None = None) -> ApiError:
    """Return the error for a request that can never be answered as it is."""
    return ApiError(400, message, code, param=param)


def build_time_limit_error(seconds: float) -> ApiError:
    """Return the error for an answer that took too long."""
    return ApiError(
        504,
        f"the answer was not finished after {seconds:g} seconds, the limit of this server; ask for fewer "
        "tokens, or have it started with a higher --time-limit",
        "time_limit_reached",
        headers=NO_RETRY,
    )


def build_stopping_error() -> ApiError:
    """Return the error for requests while the server is being stopped."""
    return ApiError(
        503, "the server is stopping and takes no more requests", "server_stopping", headers=RETRY_AFTER
    )


def build_too_many_error(limit: int) -> ApiError:
    """Return the error for requests beyond the server's own limit of answers."""
    return ApiError(
        429,
        f"this server answers {limit} requests at the same time and all are taken; try again in a moment",
        "too_many_requests",
        headers=RETRY_AFTER,
    )


def translate_error(error: BaseException) -> ApiError:
    """Return the error that a client gets for one that a model raised.

    What is not the client's fault is named by kind only: its details are for the log.
    """
    match error:
        case ApiError():
            return error
        case RefusalError():
            return ApiError(error.status, error.message, error.code, headers=error.headers)
        case RequestError():
            return build_invalid_error(str(error))
        case BusyError():
            return ApiError(429, str(error), "queue_full", headers=RETRY_AFTER)
        case ClosedError():
            return ApiError(503, "the model was closed", "model_closed", headers=RETRY_AFTER)
        case OutOfMemoryError():
            return ApiError(503, str(error), "out_of_memory", headers=NO_RETRY)
        case AdapterError():
            return ApiError(
                500,
                "the adapter cannot be used; the server's log says why",
                "adapter_failed",
                headers=NO_RETRY,
            )
        case GlmError():
            return ApiError(
                500, "the model failed; the server's log says where", "model_failed", headers=NO_RETRY
            )
    return ApiError(500, "the server failed; its log says where", "internal_error", headers=NO_RETRY)


def build_response(error: ApiError, *, original: bool = False) -> Response:
    """Return the error as a response.

    Args:
        error: what to say.
        original: whether in the shape of the original's route.
    """
    body = error.build_body()
    if original:
        body = {"error": error.message, "status": error.status_code, "time": time.strftime(TIME_FORMAT)}
    return JSONResponse(body, error.status_code, error.headers)
