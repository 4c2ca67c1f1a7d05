"""Drivers of our frontends for the conformance kit: what their users do, without a browser or keyboard."""

from __future__ import annotations

import json
import re
import time
import uuid
from collections.abc import Iterator, Mapping
from html import unescape
from typing import Any, ClassVar

import httpx
from glm_testing.driver import FrontendDriver, FrontendGoneError


class OneQuestionDriver(FrontendDriver):
    """The null frontend: one process a question."""

    shows = "terminal"

    def start(self) -> None:
        """Nothing runs before there is a question."""
        self.frontend.start({"question": "say hello"})

    def ask(self, question: str) -> str:
        """Everything that is printed."""
        self.begin(question)
        self.frontend.wait()
        return self.frontend.output

    def begin(self, question: str) -> None:
        """Start with the question."""
        self.frontend.start({"question": question})

    def leave(self) -> None:
        """Press Ctrl-C."""
        self.frontend.interrupt()


class TerminalDriver(FrontendDriver):
    """The terminal chat on pipes: a line in, a line out."""

    shows = "terminal"
    bad_options: ClassVar[Mapping[str, Any]] = {"temperature": -1.0}

    def ask(self, question: str) -> str:
        """The next line of output, or the message instead of one."""
        lines, errors = self.frontend.output.count("\n"), self.frontend.errors
        self.begin(question)

        def answered() -> bool:
            return self.frontend.output.count("\n") > lines or self.frontend.errors != errors

        if not self.frontend.wait_until(answered):
            raise FrontendGoneError(f"{question!r} is not answered")
        return self.frontend.output.split("\n")[lines]

    def begin(self, question: str) -> None:
        """Type a line."""
        self.frontend.write_line(question)

    def leave(self) -> None:
        """Press Ctrl-C, which on pipes also ends the chat."""
        self.frontend.interrupt()
        self.frontend.wait()

    def stop(self) -> None:
        """End the input."""
        self.frontend.close_input()


class HttpDriver(FrontendDriver):
    """The HTTP API, as a program uses it."""

    port_option = "port"

    def start(self) -> None:
        """Connect."""
        super().start()
        self._http = httpx.Client(
            base_url=f"http://127.0.0.1:{self.port}", timeout=self.frontend.patience, trust_env=False
        )
        self._streaming: httpx.Response | None = None

    def ask(self, question: str) -> str:
        """A whole answer."""
        answer = self._http.post("/v1/chat/completions", json=self._body(question))
        text: str = answer.raise_for_status().json()["choices"][0]["message"]["content"]
        return text

    def begin(self, question: str) -> None:
        """A streamed answer, of which nothing is read yet."""
        request = self._http.build_request(
            "POST", "/v1/chat/completions", json=self._body(question, stream=True)
        )
        self._streaming = self._http.send(request, stream=True)

    def leave(self) -> None:
        """Close the connection."""
        assert self._streaming is not None
        self._streaming.close()

    def close(self) -> None:
        """Close all connections."""
        self._http.close()

    def _body(self, question: str, **fields: Any) -> dict[str, Any]:
        return {"model": "default", "messages": [{"role": "user", "content": question}], **fields}


class PageDriver(FrontendDriver):
    """The page in the browser, through the events that the browser would send."""

    shows = "html"
    port_option = "port"

    def start(self) -> None:
        """Read what the page is made of."""
        super().start()
        self._http = httpx.Client(
            base_url=f"http://127.0.0.1:{self.port}", timeout=self.frontend.patience, trust_env=False
        )
        config = self._config()
        parts = {part["id"]: part for part in config["components"]}

        def triggers(event: Mapping[str, Any]) -> list[tuple[str | None, str]]:
            return [
                (parts.get(part, {}).get("props", {}).get("elem_id"), name) for part, name in event["targets"]
            ]

        self._send = next(
            event for event in config["dependencies"] if ("question", "submit") in triggers(event)
        )
        self._inputs = [parts[part]["props"].get("value") for part in self._send["inputs"]]
        self._load = next(
            event["id"] for event in config["dependencies"] if (None, "load") in triggers(event)
        )
        self._log: list[str] = []
        self._streaming: Any = None

    def ask(self, question: str) -> str:
        """The text of the last turn, once the page is at rest."""
        with self._visit(question) as events:
            for event in _messages(events):
                if event["msg"] == "process_completed":
                    self._log = event["output"]["data"][0]
                    break
        answer = self._log[-1].rpartition('class="glm-markdown"')[2].partition("</article>")[0]
        return unescape(re.sub("<[^>]*>", " ", f"<div {answer}"))

    def begin(self, question: str) -> None:
        """Ask, and stay until the answer has begun."""
        self._streaming = self._visit(question)
        for event in _messages(self._streaming.__enter__()):
            if event["msg"] == "process_generating":
                return

    def leave(self) -> None:
        """Close the page."""
        self._streaming.__exit__(None, None, None)

    def read_page(self) -> str:
        """The whole log."""
        return "".join(self._log)

    def close(self) -> None:
        """Close all connections."""
        self._http.close()

    def _config(self) -> dict[str, Any]:
        end = time.monotonic() + self.frontend.patience
        while True:
            answer = self._http.get("/config")
            if answer.status_code == 200 or time.monotonic() > end:
                config: dict[str, Any] = answer.raise_for_status().json()
                return config
            time.sleep(0.05)

    def _visit(self, question: str) -> Any:
        visitor = uuid.uuid4().hex
        # A browser shows the page before anything can be asked in it.
        with self._fire(self._load, ["en", None], visitor) as events:
            for event in _messages(events):
                if event["msg"] == "process_completed":
                    break
        return self._fire(self._send["id"], [question, *self._inputs[1:]], visitor)

    def _fire(self, event: int, data: list[Any], visitor: str) -> Any:
        body = {"data": data, "fn_index": event, "session_hash": visitor}
        self._http.post("/gradio_api/queue/join", json=body).raise_for_status()
        return self._http.stream("GET", "/gradio_api/queue/data", params={"session_hash": visitor})


def _messages(response: httpx.Response) -> Iterator[dict[str, Any]]:
    for line in response.iter_lines():
        if line.startswith("data:"):
            yield json.loads(line.removeprefix("data:"))
