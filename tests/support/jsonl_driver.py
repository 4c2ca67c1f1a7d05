"""Talks to the JSON-lines frontend of the examples in the place of a program."""

from __future__ import annotations

import json
from typing import Any, ClassVar

from glm_testing.driver import FrontendDriver, FrontendProcess


class Driver(FrontendDriver):
    """Writes requests, reads lines."""

    bad_options: ClassVar[dict[str, Any]] = {"max_requests": 0}

    def __init__(self, frontend: FrontendProcess, port: int) -> None:
        super().__init__(frontend, port)
        self._lines = 0
        self._requests = 0

    def start(self) -> None:
        """Wait for the line that says that the model is open."""
        super().start()
        assert "ready" in self._next_line()

    def ask(self, question: str) -> str:
        """The texts of one answer, or its error."""
        self.begin(question)
        text: str = ""
        while True:
            line = self._next_line()
            if line.get("id") != str(self._requests):
                continue  # of an answer that was cancelled before
            text += str(line.get("text", ""))
            if "finish_reason" in line or "error" in line:
                return text

    def begin(self, question: str) -> None:
        """Send a request."""
        self._requests += 1
        messages = [{"role": "user", "content": question}]
        self.frontend.write_line(json.dumps({"id": str(self._requests), "messages": messages}))

    def leave(self) -> None:
        """Cancel it."""
        self.frontend.write_line(json.dumps({"cancel": str(self._requests)}))

    def stop(self) -> None:
        """End the input."""
        self.frontend.close_input()

    def _next_line(self) -> dict[str, Any]:
        line: dict[str, Any] = json.loads(self.frontend.read_line(self._lines))
        self._lines += 1
        return line
