"""Checking what a browser sends as an event of the page, before gradio sees it.

Gradio takes any JSON for the value of any component. An object that says that it is a file is copied: from
any path that the server can read, or from the network, into a folder that nobody empties. And what does not
fit a component is a traceback in the server's terminal, with which any visitor could fill a disk.
"""

from __future__ import annotations

import json
import re
from typing import Any, NoReturn

from glm_http.refusals import RefusalError
from starlette.types import ASGIApp, Message, Receive, Scope, Send

JOIN = "/gradio_api/queue/join"
MAX_JSON_VALUES = 100_000
"""Commas and brackets in the body of an event; reading them takes 20 ms of the loop that serves everybody."""
_WINDOW = re.compile(r"[\w-]{1,100}", re.ASCII)


class EventCheck:
    """An ASGI middleware that refuses events which the page's own script never sends.

    Args:
        app: the page.
        gradio_app: gradio's own application, which knows the page's functions and components.
    """

    def __init__(self, app: ASGIApp, gradio_app: Any) -> None:
        self._app = app
        self._gradio_app = gradio_app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request.

        Raises:
            RefusalError: it is an event that does not fit.
        """
        if scope["type"] != "http" or scope["path"] != JOIN:
            await self._app(scope, receive, send)
            return
        messages: list[Message] = []
        while not messages or messages[-1].get("more_body", False):
            messages.append(await receive())
            if messages[-1]["type"] == "http.disconnect":
                return
        body = b"".join(message.get("body", b"") for message in messages)
        check_event(body, self._gradio_app.get_blocks().fns)
        messages = [{"type": "http.request", "body": body, "more_body": False}]

        async def receive_again() -> Message:
            return messages.pop() if messages else await receive()

        await self._app(scope, receive_again, send)


def check_event(body: bytes, functions: Any) -> None:
    """Refuse an event that fits none of the page's functions.

    Args:
        body: of the request.
        functions: the page's, as gradio keeps them: by number, each with its ``inputs``.

    Raises:
        RefusalError: 400, or 413 for too many values.
    """
    # Counted before they are read: a million small numbers are no longer than a file, which is one long text.
    if sum(map(body.count, (b",", b"[", b"{"))) > MAX_JSON_VALUES:
        raise RefusalError(413, "body_too_large", f"the request has more than {MAX_JSON_VALUES} values")
    try:
        event = json.loads(body, parse_constant=_refuse_constant)
    except (ValueError, RecursionError):
        raise _build_refusal("is no JSON") from None
    if not isinstance(event, dict) or event.get("batched"):
        raise _build_refusal("is no event")
    window, number, data = (event.get(key) for key in ("session_hash", "fn_index", "data"))
    if not isinstance(window, str) or not _WINDOW.fullmatch(window):
        raise _build_refusal("names no window")
    if isinstance(number, bool) or not isinstance(number, int) or number not in functions:
        raise _build_refusal("names no function")
    inputs = functions[number].inputs
    if not isinstance(data, list) or len(data) != len(inputs):
        raise _build_refusal(f"must bring {len(inputs)} values")
    for value, component in zip(data, inputs, strict=True):
        if not _is_possible(value, component):
            raise _build_refusal(f"has a wrong value for a {component.get_block_name()}")


def _is_possible(value: object, component: Any) -> bool:
    """Return whether a component of the page can have a value; none can have a list or an object."""
    match component.get_block_name():
        case "slider":
            is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
            return is_number and component.minimum <= value <= component.maximum
        case "radio":
            return value is None or (
                isinstance(value, str) and value in [each[1] for each in component.choices]
            )
    return value is None or isinstance(value, str)


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(name)


def _build_refusal(problem: str) -> RefusalError:
    return RefusalError(400, "bad_event", f"this request {problem}; reload the page, or use glm run api")
