"""Forgetting windows: what the server keeps of one is freed when nobody looks at it any more.

Gradio keeps the state of a window, and every value that its components had, until 10,000 windows came after
it: it lets a state expire only where the state is the output of an event. So this is done here.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from typing import Any
from urllib.parse import parse_qs

from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Receive, Scope, Send

GRACE_SECONDS = 60.0
"""How long a window may be out of reach: a reload of the network, or a phone that slept, does not end it."""
MAX_WINDOWS = 500
"""Windows that are kept at the same time; beyond that the one that did nothing for longest is forgotten."""

_HEARTBEAT = "/gradio_api/heartbeat/"
_UPDATES = "/gradio_api/queue/data"


class WindowKeeper:
    """An ASGI middleware that forgets each window some time after its last connection has closed.

    A browser holds a connection for as long as a window is open, and another while an answer comes.

    Args:
        app: the page, which is or holds ``gradio_app``.
        gradio_app: gradio's own application; keeps what there is of each window.
        blocks: the page's ``gradio.Blocks``; its queue holds messages for windows.
        grace_seconds: how long a window without a connection is kept; ``GRACE_SECONDS`` by default.
    """

    def __init__(
        self, app: ASGIApp, gradio_app: Any, blocks: Any, *, grace_seconds: float | None = None
    ) -> None:
        self._app = app
        self._states = gradio_app.state_holder
        self._queue = blocks._queue
        self._grace_seconds = GRACE_SECONDS if grace_seconds is None else grace_seconds
        self._connections: Counter[str] = Counter()
        self._left_at: dict[str, float] = {}
        self._sweep: asyncio.TimerHandle | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request; note when the connection of a window begins and ends."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        window = find_window(scope)
        if scope["path"] == _UPDATES and window not in self._queue.pending_messages_per_session:
            # Gradio finds it out in the middle of its answer, and prints a hundred lines for each request.
            await PlainTextResponse("nothing was asked in this window\n", 404)(scope, receive, send)
            return
        if window is not None:
            self._connections[window] += 1
            self._left_at.pop(window, None)
        try:
            await self._app(scope, receive, send)
        finally:
            if window is not None:
                self._connections[window] -= 1
                if not self._connections[window]:
                    del self._connections[window]
                    self._left_at[window] = time.monotonic()
            # After every request, because programs may begin windows without ever holding a connection.
            self._plan_sweep()

    def _plan_sweep(self) -> None:
        if self._sweep is None and self._find_left():
            # Several times in a grace period, so that no window is kept for much longer than one.
            self._sweep = asyncio.get_running_loop().call_later(self._grace_seconds / 4, self._forget_left)

    def _find_left(self) -> list[str]:
        known = {*self._states.session_data, *self._queue.pending_event_ids_session}
        known.update(self._queue.pending_messages_per_session)
        # An answer that still comes is ended by gradio; until then the window is in use.
        running = {event.session_hash for job in self._queue.active_jobs for event in job or ()}
        return [window for window in known if window not in self._connections and window not in running]

    def _forget_left(self) -> None:
        self._sweep = None
        now = time.monotonic()
        self._left_at = {window: self._left_at.get(window, now) for window in self._find_left()}
        for window, left_at in list(self._left_at.items()):
            if now - left_at >= self._grace_seconds:
                self._forget(window)
        self._plan_sweep()

    def _forget(self, window: str) -> None:
        """Free everything that is kept under the name of a window."""
        self._left_at.pop(window, None)
        self._states.session_data.pop(window, None)
        self._states.time_last_used.pop(window, None)
        self._queue.pending_event_ids_session.pop(window, None)
        self._queue.pending_messages_per_session.pop(window, None)


def find_window(scope: Scope) -> str | None:
    """Return the window whose connection a request is; ``None`` for all other requests."""
    path = str(scope["path"])
    if path.startswith(_HEARTBEAT):
        return path[len(_HEARTBEAT) :]
    if path == _UPDATES:
        query = parse_qs(scope.get("query_string", b"").decode("latin-1"))
        return next(iter(query.get("session_hash", [])), None)
    return None
