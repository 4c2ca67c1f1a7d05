"""The conversation with the program at the other end."""

from __future__ import annotations

import json
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from typing import Any, BinaryIO

import glm_core
from glm_core import ChatRequest, Delta, GlmError, RequestError
from glm_core.records import OpenModel

LONGEST_LINE = 2**20
FIELDS = {"id", "messages", "sampling", "stop", "seed", "adapter"}


def run(open_model: OpenModel, options: Mapping[str, Any]) -> None:
    """Answer line by line until the input ends.

    Raises:
        ConfigError: an option is wrong; before the model is opened.
    """
    if options["max_requests"] < 1:
        raise glm_core.ConfigError(f"--max-requests must be 1 or more, got {options['max_requests']}")
    with open_model() as model:
        session = Session(model, options["max_requests"])
        try:
            session.say(ready=model.info.name)
            session.listen(sys.stdin.buffer)
        finally:
            session.cancel_all()


class Session:
    """The answers that run, by id, and the one way to write a line."""

    def __init__(self, model: glm_core.ChatModel, max_requests: int) -> None:
        self._model = model
        self._max_requests = max_requests
        self._running: dict[str, Callable[[], None]] = {}  # how to cancel each
        self._threads: list[threading.Thread] = []
        self._writing = threading.Lock()

    def listen(self, lines: BinaryIO) -> None:
        """Take requests until there are no more, then wait for the answers to them."""
        for line in iter(lambda: lines.readline(LONGEST_LINE), b""):
            name = None
            try:
                message = _parse(line)
                name = message.get("id")
                if "cancel" in message:
                    self._cancel(message["cancel"])
                else:
                    self._begin(*_request(message))
            except GlmError as error:
                self.say(id=name, error=str(error), kind=type(error).__name__)
        for thread in self._threads:
            thread.join()

    def say(self, **fields: Any) -> None:
        """Write one line; where nobody reads any more, cancel whatever runs."""
        try:
            with self._writing:
                sys.stdout.write(f"{json.dumps(fields)}\n")
                sys.stdout.flush()
        except BrokenPipeError:
            self.cancel_all()

    def cancel_all(self) -> None:
        """Cancel whatever runs."""
        for name in list(self._running):
            self._cancel(name)

    def _begin(self, name: str, request: ChatRequest) -> None:
        if name in self._running:
            raise RequestError(f"request {name!r} is being answered already; give each an id of its own")
        if len(self._running) >= self._max_requests:
            raise glm_core.BusyError(f"{self._max_requests} requests are being answered; wait for one to end")
        stream = self._model.stream(request)
        self._running[name] = stream.close
        self._threads = [thread for thread in self._threads if thread.is_alive()]
        self._threads.append(threading.Thread(target=self._answer, args=(name, stream), daemon=True))
        self._threads[-1].start()

    def _cancel(self, name: str) -> None:
        close = self._running.pop(name, None)
        if close is not None:
            close()  # wakes the thread that reads the answer

    def _answer(self, name: str, stream: Iterator[Delta]) -> None:
        end: dict[str, Any] = {"finish_reason": "cancelled"}
        try:
            for delta in stream:
                if delta.text:
                    self.say(id=name, text=delta.text)
                if delta.finish_reason is not None:
                    tokens = delta.usage.completion_tokens if delta.usage else 0
                    end = {"finish_reason": delta.finish_reason, "completion_tokens": tokens}
        except GlmError as error:
            end = {"error": str(error), "kind": type(error).__name__}
        self._cancel(name)  # which does nothing to an answer that has ended
        self.say(id=name, **end)


def _parse(line: bytes) -> dict[str, Any]:
    try:
        message = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise RequestError(f"a line is no JSON of at most {LONGEST_LINE} bytes: {error}") from error
    if not isinstance(message, dict) or not isinstance(message.get("id", message.get("cancel")), str):
        raise RequestError('a line must be an object with a text "id", or "cancel"')
    return message


def _request(message: Mapping[str, Any]) -> tuple[str, ChatRequest]:
    if unknown := sorted(set(message) - FIELDS):
        raise RequestError(f"field {unknown[0]!r} is unknown; known are {', '.join(sorted(FIELDS))}")
    try:
        return message["id"], ChatRequest(
            messages=tuple(glm_core.Message(**said) for said in message["messages"]),
            sampling=glm_core.Sampling(**message.get("sampling", {})),
            adapter=message.get("adapter"),
            stop=tuple(message.get("stop", ())),
            seed=message.get("seed"),
        )
    except (TypeError, KeyError) as error:
        raise RequestError(f"the request has the wrong shape: {error}") from error
