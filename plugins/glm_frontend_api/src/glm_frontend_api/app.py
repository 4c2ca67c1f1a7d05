"""The application: routes, error shapes, CORS and the gate, for one model."""

from __future__ import annotations

import functools
from collections.abc import Sequence

from fastapi import FastAPI, Request
from glm_http.refusals import RefusalError
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import Response
from starlette.types import ASGIApp

from glm_core import ChatModel, GlmError

from . import (
    __version__,
    adapters_route,
    chat_route,
    completions_route,
    models_route,
    original_route,
    service_routes,
)
from .config import ApiConfig, parse_folder
from .documentation import build_document
from .errors import ApiError, ClientGoneError, build_response, translate_error
from .gate import ApiGate
from .problem_log import log_problem
from .readiness import Readiness
from .service import Service

_ROUTE_MODULES = (
    *(chat_route, completions_route, models_route, adapters_route),
    *(original_route, service_routes),
)
_DESCRIPTION = "A ChatGLM model behind OpenAI's routes and the original's POST /."


def asgi_app(
    model: ChatModel,
    *,
    api_key: str | None = None,
    allowed_hosts: Sequence[str] | None = None,
    adapters_dir: str | None = None,
) -> ASGIApp:
    """Build the API on a model that somebody else opens and closes; the entry point ``glm.asgi``.

    Args:
        model: what to serve.
        api_key: what clients must send; ``None`` = nothing.
        allowed_hosts: names, without port, by which clients without a key may call this machine,
            beside loopback's own; ``None`` = any.
        adapters_dir: folder that clients with the key may have adapters loaded from; ``None`` = none.

    Raises:
        ConfigError: the key cannot travel in a header, or the folder is not there.
    """
    host = "0.0.0.0" if allowed_hosts is None else "127.0.0.1"  # noqa: S104 - binds nothing, says who may call
    config = ApiConfig(
        host=host,
        api_key=api_key,
        insecure=api_key is None,
        allowed_hosts=tuple(allowed_hosts or ()),
        adapters_dir=parse_folder(adapters_dir),
    )
    return build_app(Service(model, config))


def build_app(service: Service) -> ASGIApp:
    """Build the ASGI application that serves ``service``."""
    config = service.config
    app = FastAPI(
        title="glm",
        version=__version__,
        description=_DESCRIPTION,
        docs_url=None,  # its page would load scripts from another site
        redoc_url=None,
        redirect_slashes=False,
    )
    app.state.service = service
    app.state.readiness = Readiness(service)
    for module in _ROUTE_MODULES:
        app.include_router(module.router)
    app.openapi = functools.cache(  # type: ignore[method-assign]
        functools.partial(
            build_document, app, with_key=config.api_key is not None, root_path=config.root_path
        )
    )
    app.add_exception_handler(HTTPException, _answer_error)
    app.add_exception_handler(GlmError, _answer_error)
    app.add_exception_handler(ClientGoneError, _answer_client_gone)
    app.add_exception_handler(Exception, _answer_failure)
    gate = ApiGate(app, service)
    if not config.cors_origins:
        return gate
    return CORSMiddleware(
        gate,
        allow_origins=config.cors_origins,
        allow_methods=("GET", "HEAD", "POST"),
        allow_headers=("*",),
        expose_headers=("x-request-id", "retry-after", "x-dropped-messages"),
    )


async def _answer_error(request: Request, problem: Exception) -> Response:
    service: Service = request.app.state.service
    error = _to_api_error(problem)
    if error.status_code >= 500:
        log_problem(problem)
    service.metrics.errors.labels(error.code or "invalid_request").inc()
    return build_response(error, original=request.scope["path"] == "/")


async def _answer_failure(request: Request, problem: Exception) -> Response:
    """Answer what nobody expected. Starlette raises it again after that, and the gate logs or replaces it."""
    service: Service = request.app.state.service
    error = translate_error(problem)
    if not isinstance(problem, RefusalError):  # those are counted by the gate
        service.metrics.errors.labels(error.code).inc()
    return build_response(error, original=request.scope["path"] == "/")


async def _answer_client_gone(request: Request, problem: Exception) -> Response:
    service: Service = request.app.state.service
    service.metrics.disconnects.inc()
    return Response(status_code=499)  # nobody reads it; the metrics count it


def _to_api_error(problem: Exception) -> ApiError:
    match problem:
        case ApiError() | GlmError():
            return translate_error(problem)
        case HTTPException(status_code=404):
            return ApiError(404, "there is no such route; /openapi.json lists them all", "not_found")
        case HTTPException(status_code=405):
            allowed = (problem.headers or {}).get("Allow", "")
            return ApiError(
                405, f"this route takes {allowed}", "method_not_allowed", headers={"allow": allowed}
            )
        case HTTPException():
            return ApiError(problem.status_code, str(problem.detail))
    return translate_error(problem)
