"""What stands in front of the page: what it answers, to whom, and what a browser may do with it.

The policy that browsers are given lets the page load from its own server only, and runs no script
but the page's own: neither inline ones that are not part of the page as served, nor event handlers
in attributes, nor ``javascript:`` links. Should anything ever get past the escaping of answers,
it does not run.
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Iterable
from typing import Any

from glm_http.access import SiteRules, check_host, check_origin
from glm_http.gate import Gate
from glm_http.refusals import RefusalError
from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import HTTPConnection
from starlette.responses import PlainTextResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ._events import JOIN, EventCheck
from ._room import MAX_BYTES

# The page's requests that have a body, and the bytes that it may have. Files come in `JOIN` as base64, which
# has four letters for three bytes; 100,000 are for all that is around it.
_MAX_BODY_BYTES = {
    "/login": 10_000,
    JOIN: MAX_BYTES * 4 // 3 + 100_000,
    "/gradio_api/cancel": 10_000,
    "/gradio_api/reset": 10_000,
}
MAX_BYTES_AT_ONCE = 64_000_000
"""Of files that are arriving: room for a dozen people who import their conversations in the same moment."""
# Of gradio's own interface only what the page's script asks for. The rest writes files that nobody removes
# (``upload``, ``deep_link``), or fetches from the network or the disk (``proxy=``, ``file=``).
_READABLE = re.compile(
    r"/gradio_api/(?:heartbeat/[\w-]+|queue/data|queue/status|info|theme\.css|startup-events|app_id|user|login_check)"
)
# What somebody who has logged in may do. Gradio itself asks for the login only after it has read the body.
_PROTECTED = ("/gradio_api/queue/", "/gradio_api/heartbeat/", "/gradio_api/cancel", "/gradio_api/reset")
_INLINE_SCRIPT = re.compile(rb"<script(?![^>]*\ssrc=)[^>]*>(.*?)</script>", re.DOTALL | re.IGNORECASE)


def guard_page(
    app: ASGIApp, gradio_app: Any, allowed_hosts: Iterable[str] | None = None, root_path: str = ""
) -> ASGIApp:
    """Return the page with everything in front of it.

    Args:
        app: the page, which is or holds ``gradio_app``.
        gradio_app: gradio's own application, which knows who has logged in.
        allowed_hosts: host names that requests may be for, without port; ``None`` = any. A page on
            this machine's loopback answers to its own names only, so that no other web site can
            reach it under a name of its own.
        root_path: path under which a proxy serves the page.
    """
    hosts = None if allowed_hosts is None else frozenset(name.lower() for name in allowed_hosts)
    rules = SiteRules(
        allowed_hosts=hosts,
        # A proxy may hide the name from us that a browser sees, but the user has told it.
        allowed_origins=frozenset(f"{kind}://{name}" for kind in ("http", "https") for name in hosts or ()),
        host_advice="; start the page with --allowed-hosts if it should",
    )

    def check_login(scope: Scope, headers: Headers) -> None:
        if gradio_app.auth is None or not scope["path"].startswith(_PROTECTED):
            return
        cookies = HTTPConnection(scope).cookies
        names = (f"access-token-{gradio_app.cookie_id}", f"access-token-unsecure-{gradio_app.cookie_id}")
        if not any(cookies.get(name) in gradio_app.tokens for name in names):
            raise RefusalError(401, "login_required", "log in first: open the page in a browser")

    return Gate(
        _PagePolicy(EventCheck(app, gradio_app)),
        checks=(
            lambda scope, headers: check_host(headers, rules),
            lambda scope, headers: check_origin(headers, scope["method"], rules),
            check_route,
            check_login,
        ),
        max_body_bytes=lambda scope: _MAX_BODY_BYTES.get(scope["path"], 0),
        max_bytes_at_once=MAX_BYTES_AT_ONCE,
        build_refusal=build_refusal,
        root_path=root_path,
    )


def check_route(scope: Scope, headers: Headers) -> None:
    """Refuse what the page has no use for, before anything of a body is read.

    Raises:
        RefusalError: 404 or 405.
    """
    path, method = scope["path"], scope["method"]
    if path.startswith("/gradio_api/upload"):
        raise RefusalError(403, "not_served", "this page takes no uploads; it imports files by itself")
    is_private = path.startswith("/gradio_api") and not _READABLE.fullmatch(path)
    if path in _MAX_BODY_BYTES:
        if method not in ("POST", "OPTIONS") and path != "/login":
            raise RefusalError(405, "not_served", f"{path} takes POST only")
    elif method not in ("GET", "HEAD", "OPTIONS"):
        raise RefusalError(405, "not_served", "this page cannot be written to; programs use glm run api")
    elif is_private or path.startswith("/monitoring"):
        raise RefusalError(404, "not_served", "this page has no such part; programs use glm run api")


def build_refusal(scope: Scope, refusal: RefusalError) -> Response:
    """Return the response for a request that is turned away."""
    return PlainTextResponse(f"{refusal.message}\n", refusal.status, refusal.headers)


class _PagePolicy:
    """An ASGI middleware that gives browsers the page's policy."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._app(scope, receive, _PolicySender(send) if scope["type"] == "http" else send)


class _PolicySender:
    """Sends a response on with the policy; holds an HTML page back until its inline scripts are known."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self._start: Message | None = None
        self._body = b""

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = MutableHeaders(scope=message)
            headers["X-Content-Type-Options"] = "nosniff"
            headers["Referrer-Policy"] = "no-referrer"
            if headers.get("content-type", "").startswith("text/html"):
                self._start = message
                return
        elif self._start is not None:
            self._body += message.get("body", b"")
            if message.get("more_body"):
                return
            MutableHeaders(scope=self._start)["Content-Security-Policy"] = build_policy(self._body)
            await self._send(self._start)
            self._start, message = None, {"type": "http.response.body", "body": self._body}
        await self._send(message)


def build_policy(page: bytes) -> str:
    """Return an HTML page's content security policy: its own inline scripts, by hash, nothing foreign."""
    hashes = [
        f"'sha256-{base64.b64encode(hashlib.sha256(script).digest()).decode()}'"
        for script in _INLINE_SCRIPT.findall(page)
    ]
    # unsafe-eval: gradio compiles the scripts of events and templates; no text of a chat is among them.
    scripts = " ".join(["'self'", "'unsafe-eval'", *hashes])
    return "; ".join(
        (
            "default-src 'self'",
            f"script-src {scripts}",
            "script-src-attr 'none'",
            "style-src 'self' 'unsafe-inline'",
            "img-src 'self' data: blob:",
            "font-src 'self' data:",
            "connect-src 'self'",
            "worker-src 'self' blob:",
            "object-src 'none'",
            "base-uri 'self'",
            "form-action 'self'",
            "frame-ancestors 'self'",
        )
    )
