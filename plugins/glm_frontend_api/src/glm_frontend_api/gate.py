"""What every request passes first: checks, counts, an id, and the net under everything."""

from __future__ import annotations

import logging
import secrets
import time

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from .errors import ApiError, error_response, stopping, translate_error
from .problem_log import log_problem, request_id
from .security import check_key, check_site
from .service import Service

logger = logging.getLogger("glm.api")
_ROUTES = (
    *("/", "/health", "/ready", "/metrics", "/openapi.json"),
    *("/v1/chat/completions", "/v1/completions", "/v1/models", "/v1/adapters"),
)
_WHILE_STOPPING = ("/health", "/ready", "/metrics")


class Gate:
    """The outermost ASGI application but for CORS.

    Args:
        app: the routes.
        service: keys, limits and metrics.
    """

    def __init__(self, app: ASGIApp, service: Service) -> None:
        self._app = app
        self._service = service

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let a request through, or answer it here."""
        if scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})
        elif scope["type"] == "http":
            await self._http(scope, receive, send)
        else:
            await self._app(scope, receive, send)

    async def _http(self, scope: Scope, receive: Receive, send: Send) -> None:
        began = time.perf_counter()
        path = strip_root_path(scope["path"], self._service.config.root_path)
        route = label_route(path)
        own_id = f"req-{secrets.token_hex(8)}"
        request_id.set(own_id)
        status = 0

        async def counted_send(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                MutableHeaders(scope=message).update(
                    {"x-request-id": own_id, "x-content-type-options": "nosniff"}
                )
            await send(message)

        try:
            await self._admit({**scope, "path": path}, receive, counted_send)
        except Exception as error:  # the net: nothing may reach the server's own log, which shows messages
            log_problem(error)
            if not status:
                response = error_response(translate_error(error), original=path == "/")
                await response(scope, receive, counted_send)
        seconds = time.perf_counter() - began
        metrics = self._service.metrics
        metrics.requests.labels(route, str(status or "none")).inc()
        metrics.request_seconds.labels(route).observe(seconds)
        logger.debug("%s %s %s %s %.3f s", own_id, scope["method"], route, status, seconds)

    async def _admit(self, scope: Scope, receive: Receive, send: Send) -> None:
        posts, path = self._service.posts, scope["path"]
        try:
            self._check(Headers(scope=scope), scope["method"], path)
            if scope["method"] == "POST":
                posts.take()
        except ApiError as error:
            self._service.metrics.errors.labels(error.code).inc()
            await error_response(error, original=path == "/")(scope, receive, send)
            return
        try:
            await self._app(scope, receive, send)
        finally:
            if scope["method"] == "POST":
                posts.give_back()

    def _check(self, headers: Headers, method: str, path: str) -> None:
        check_site(headers, self._service.config)
        if not (path == "/health" and method == "GET"):
            check_key(headers, self._service.config.api_key)
        if self._service.draining and path not in _WHILE_STOPPING:
            raise stopping()


def strip_root_path(path: str, root_path: str) -> str:
    """Return the path without the prefix under which a proxy serves this."""
    if root_path and path.startswith(f"{root_path}/"):
        return path[len(root_path) :]
    return path


def label_route(path: str) -> str:
    """Return the route of a path, for metrics: one of a fixed number, whatever clients ask for."""
    if path in _ROUTES:
        return path
    if path.startswith("/v1/adapters/"):
        return "/v1/adapters/{name}"
    return "/v1/models/{model_id}" if path.startswith("/v1/models/") else "other"
