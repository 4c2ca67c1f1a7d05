"""What stands in front of the page: which hosts it answers to, and what a browser may do with it.

The policy that browsers are given lets the page load from its own server only, and runs no script
but the page's own: neither inline ones that are not part of the page as served, nor event handlers
in attributes, nor ``javascript:`` links. Should anything ever get past the escaping of answers,
it is as dead as text.
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Iterable

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

_INLINE_SCRIPT = re.compile(rb"<script(?![^>]*\ssrc=)[^>]*>(.*?)</script>", re.DOTALL | re.IGNORECASE)


class PageGuard:
    """An ASGI middleware around the page.

    Args:
        app: the page.
        allowed_hosts: host names that requests may be for, without port; ``None`` = any. A page on
            this machine's loopback answers to its own names only, so that no other web site can
            reach it under a name of its own.
    """

    def __init__(self, app: ASGIApp, allowed_hosts: Iterable[str] | None = None) -> None:
        self._app = app
        self._allowed = None if allowed_hosts is None else frozenset(name.lower() for name in allowed_hosts)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        host = _parse_host_name(Headers(scope=scope).get("host", ""))
        if self._allowed is not None and host not in self._allowed:
            refusal = PlainTextResponse(
                f"This page does not answer to the name {host!r}. "
                f"Start it with --allowed-hosts {host} if it should.",
                status_code=400,
            )
            await refusal(scope, receive, send)
            return
        await self._app(scope, receive, _PolicySender(send))


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


def _parse_host_name(header: str) -> str:
    name, separator, port = header.lower().rpartition(":")
    return name if separator and port.isdigit() else header.lower()
