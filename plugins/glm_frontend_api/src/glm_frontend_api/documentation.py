"""The OpenAPI document: which errors each route has, and what FastAPI would say wrongly."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic import BaseModel

from .responses import ErrorResponse, OriginalError

Responses = dict[int | str, dict[str, Any]]
_MEANINGS = {
    400: "the request is wrong",
    401: "the key is missing or wrong",
    403: "the request comes from another site's page, or asks for what is not allowed here",
    404: "no such model or adapter",
    408: "the body did not arrive in time",
    409: "there is one of that name",
    413: "the body is too large",
    415: "the body is not application/json",
    429: "too many requests; see Retry-After",
    500: "the model failed",
    503: "the server is stopping, or out of memory",
    504: "the time limit is reached",
}


def _describe_errors(model: type[BaseModel], *statuses: int) -> Responses:
    return {status: {"model": model, "description": _MEANINGS[status]} for status in statuses}


REFUSALS = _describe_errors(ErrorResponse, 401, 403, 503)
NOT_FOUND = _describe_errors(ErrorResponse, 404)
ANSWERS = _describe_errors(ErrorResponse, *(status for status in _MEANINGS if status != 409))
ORIGINAL_ANSWERS = _describe_errors(
    OriginalError, *(status for status in _MEANINGS if status not in (404, 409))
)
ADAPTER_CHANGES = _describe_errors(ErrorResponse, 400, 401, 403, 408, 409, 413, 415, 429, 500, 503)
ADAPTER_REMOVALS = _describe_errors(ErrorResponse, 400, 401, 403, 404, 500, 503)


def describe_stream(model: type[BaseModel]) -> dict[str, Any]:
    """Describe a response that is ``model``, or a stream of events where the request says ``stream``."""
    return {"model": model, "content": {"text/event-stream": {"schema": {"type": "string"}}}}


def build_document(app: FastAPI, *, with_key: bool, root_path: str) -> dict[str, Any]:
    """Return the OpenAPI document, without FastAPI's own 422, which this server never sends.

    Args:
        app: whose routes.
        with_key: whether clients need the key.
        root_path: path under which a proxy serves this.
    """
    text = get_openapi(title=app.title, version=app.version, description=app.description, routes=app.routes)
    for path, operations in text["paths"].items():
        for operation in operations.values():
            operation["responses"].pop("422", None)
            if with_key and path != "/health":
                operation["security"] = [{"key": []}]
    components = text.setdefault("components", {})
    for name in ("HTTPValidationError", "ValidationError"):
        components.get("schemas", {}).pop(name, None)
    if with_key:
        components["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
    if root_path:
        text["servers"] = [{"url": root_path}]
    return text
