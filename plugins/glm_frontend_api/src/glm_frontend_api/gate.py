"""What every request passes first: checks, counts, an id, and the net under everything."""

from __future__ import annotations

import logging
import secrets
import time

from glm_http.access import SiteRules, check_host, check_key, check_origin
from glm_http.gate import Gate
from glm_http.paths import normalize_path
from glm_http.refusals import RefusalError
from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from .config import ApiConfig
from .errors import ApiError, build_response, build_stopping_error, translate_error
from .problem_log import log_problem, request_id
from .service import Service

logger = logging.getLogger("glm.api")
_ROUTES = (
    *("/", "/health", "/ready", "/metrics", "/openapi.json"),
    *("/v1/chat/completions", "/v1/completions", "/v1/models", "/v1/adapters"),
)
_WHILE_STOPPING = ("/health", "/ready", "/metrics")


class ApiGate:
    """The outermost ASGI application but for CORS: ids, counts and the net around a `glm_http.gate.Gate`.

    Args:
        app: the routes.
        service: keys, limits and metrics.
    """

    def __init__(self, app: ASGIApp, service: Service) -> None:
        self._service = service
        config = service.config
        self._rules = build_site_rules(config)
        self._gate = Gate(
            _Places(_HeadAsGet(app), service),
            # Sites before the key, so that a page of another site learns nothing about the key.
            checks=(self._check_site, self._check_key, self._check_draining),
            max_body_bytes=lambda scope: config.max_body_bytes,
            body_seconds=config.body_seconds,
            build_refusal=self._build_refusal,
            root_path=config.root_path,
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let a request through, or answer it here."""
        if scope["type"] == "http":
            await self._answer(scope, receive, send)
        else:
            await self._gate(scope, receive, send)

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        began = time.perf_counter()
        path = normalize_path(scope["path"], self._service.config.root_path)
        route = label_route(path)
        own_id = f"req-{secrets.token_hex(8)}"
        request_id.set(own_id)
        status = 0

        async def send_with_id(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                MutableHeaders(scope=message).update(
                    {"x-request-id": own_id, "x-content-type-options": "nosniff"}
                )
            await send(message)

        try:
            await self._gate(scope, receive, send_with_id)
        except Exception as error:  # the net: nothing may reach the server's own log, which shows messages
            log_problem(error)
            if not status:
                response = build_response(translate_error(error), original=path == "/")
                await response(scope, receive, send_with_id)
        seconds = time.perf_counter() - began
        metrics = self._service.metrics
        metrics.requests.labels(route, str(status or "none")).inc()
        metrics.request_seconds.labels(route).observe(seconds)
        logger.debug("%s %s %s %s %.3f s", own_id, scope["method"], route, status, seconds)

    def _check_site(self, scope: Scope, headers: Headers) -> None:
        # With a key a page would have to know it, and a proxy's names and pages are nobody's business here.
        if self._service.config.api_key is None:
            check_host(headers, self._rules)
            check_origin(headers, scope["method"], self._rules)

    def _check_key(self, scope: Scope, headers: Headers) -> None:
        # Whoever restarts what does not answer has no key, and learns only that this process lives.
        if not (scope["path"] == "/health" and scope["method"] in ("GET", "HEAD")):
            check_key(headers, self._service.config.api_key)

    def _check_draining(self, scope: Scope, headers: Headers) -> None:
        if self._service.draining and scope["path"] not in _WHILE_STOPPING:
            error = build_stopping_error()
            raise RefusalError(error.status_code, "server_stopping", error.message, error.headers)

    def _build_refusal(self, scope: Scope, refusal: RefusalError) -> Response:
        error = translate_error(refusal)
        self._service.metrics.errors.labels(error.code).inc()
        return build_response(error, original=scope["path"] == "/")


class _Places:
    """Gives each request with a body one of the server's places, before its body is read."""

    def __init__(self, app: ASGIApp, service: Service) -> None:
        self._app = app
        self._service = service

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, or refuse it where no place is free."""
        if scope["type"] != "http" or scope["method"] != "POST":
            await self._app(scope, receive, send)
            return
        posts = self._service.posts
        try:
            posts.take()
        except ApiError as error:
            self._service.metrics.errors.labels(error.code).inc()
            await build_response(error, original=scope["path"] == "/")(scope, receive, send)
            return
        try:
            await self._app(scope, receive, send)
        finally:
            posts.give_back()


class _HeadAsGet:
    """Answers HEAD on every route that answers GET: the same status and headers, without the body."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        if scope["type"] != "http" or scope["method"] != "HEAD":
            await self._app(scope, receive, send)
            return

        async def send_head(message: Message) -> None:
            if message["type"] == "http.response.body":
                message = {**message, "body": b""}
            await send(message)

        await self._app({**scope, "method": "GET"}, receive, send_head)


def build_site_rules(config: ApiConfig) -> SiteRules:
    """Return under which names and from which pages clients without a key may call.

    A browser on this machine reaches a server on loopback, so any page could use the model: by its own
    name for 127.0.0.1, or across sites.
    """
    return SiteRules(
        allowed_hosts=frozenset(config.allowed_hosts) if config.on_loopback else None,
        allowed_origins=frozenset(config.cors_origins),
        trust_other_ports=config.on_loopback,
        host_advice="; without an API key only localhost and 127.0.0.1 are served. "
        "Behind a proxy, set GLM_API_KEY",
        origin_advice="; --cors-origin allows a site",
    )


def label_route(path: str) -> str:
    """Return the route of a path, for metrics: one of a fixed number, whatever clients ask for."""
    if path in _ROUTES:
        return path
    if path.startswith("/v1/adapters/"):
        return "/v1/adapters/{name}"
    return "/v1/models/{model_id}" if path.startswith("/v1/models/") else "other"
