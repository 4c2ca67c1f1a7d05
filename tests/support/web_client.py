"""A window of the page without a browser: what the page's script says to the server, over plain HTTP."""

from __future__ import annotations

import base64
import json
import secrets
from contextlib import ExitStack
from types import TracebackType
from typing import Any, Self

import httpx
from patience import PATIENCE_SECONDS


class RawWindow:
    """One window: a conversation of its own, and a connection that is open as long as the window is.

    Args:
        url: where the page is served, with a slash at the end.
        headers: to send with every request.
    """

    def __init__(self, url: str, **headers: str) -> None:
        self._stack = ExitStack()
        self.http = self._stack.enter_context(
            httpx.Client(base_url=url, trust_env=False, timeout=PATIENCE_SECONDS, headers=headers)
        )
        self.name = secrets.token_hex(6)
        self.config = self.http.get("config").raise_for_status().json()
        self._stack.enter_context(self.http.stream("GET", f"gradio_api/heartbeat/{self.name}"))

    def __enter__(self) -> Self:
        self.trigger(None, "load")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def trigger(self, component: str | None, event: str, inputs: Any = None, data: Any = None) -> str:
        """Let an event happen, and return everything that the server answers, as JSON.

        Args:
            component: its ``elem_id``; ``None`` = the page itself.
            event: such as ``click``.
            inputs: values of the components that the event reads; nothing in each by default.
            data: what the page's script says of the event.
        """
        function = self._find(component, event)
        body = {
            "data": [None] * len(function["inputs"]) if inputs is None else inputs,
            "event_data": data,
            "fn_index": function["id"],
            "session_hash": self.name,
        }
        self.http.post("gradio_api/queue/join", json=body).raise_for_status()
        answers = []
        updates = self.http.stream("GET", "gradio_api/queue/data", params={"session_hash": self.name})
        with updates as response:
            for line in response.iter_lines():
                if line.startswith("data:"):
                    answers.append(json.loads(line.removeprefix("data:")))
                    if answers[-1]["msg"] in ("process_completed", "close_stream", "unexpected_error"):
                        break
        return json.dumps(answers, ensure_ascii=False)

    def import_text(self, name: str, text: str) -> str:
        """Import a conversation file as the page's script does; return what the server answers."""
        content = base64.b64encode(text.encode()).decode()
        return self.trigger("import-file", "upload", data={"name": name, "content": content})

    def ask(self, question: str) -> str:
        """Send a question; return what the server answers."""
        return self.trigger("send", "click", [question, None, "", "base", 0, 1, 0.5])

    def _find(self, component: str | None, event: str) -> dict[str, Any]:
        names = {part["id"]: part["props"].get("elem_id") for part in self.config["components"]}
        for function in self.config["dependencies"]:
            for target, kind in function["targets"]:
                if kind == event and names.get(target) == component and function["backend_fn"]:
                    found: dict[str, Any] = function
                    return found
        raise AssertionError(f"the page has no event {event} of {component}")
