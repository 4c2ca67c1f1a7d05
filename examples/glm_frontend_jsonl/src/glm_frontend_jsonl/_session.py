"""The conversation with the program at the other end."""

from __future__ import annotations

import functools
import json
import sys
import threading
from collections.abc import Mapping
from typing import Any, BinaryIO

import glm_core
from glm_core import ChatRequest, Delta, GlmError, RequestError
from glm_core.conversation import parse_message
from glm_core.listening import AnswerProgress, Ended, ListenerEvent, StreamListener
from glm_core.records import OpenModel

LONGEST_LINE = 2**20  # bytes of one request; a program that sends no line end must not fill the memory
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
    """The answers that run, by id, and the one way to write a line.

    Args:
        model: what answers.
        max_requests: how many answers may run at the same time.
    """

    def __init__(self, model: glm_core.ChatModel, max_requests: int) -> None:
        self._model = model
        self._max_requests = max_requests
        self._running: dict[str, StreamListener] = {}
        self._listeners: list[StreamListener] = []  # also those that are writing their last line
        self._writing = threading.Lock()

    def listen(self, lines: BinaryIO) -> None:
        """Take requests until there are no more, then wait for the answers to them."""
        for line in iter(lambda: lines.readline(LONGEST_LINE), b""):
            name = None
            try:
                message = _parse(line)
                name = message.get("id")
                if "cancel" in message:
                    if listener := self._running.get(message["cancel"]):
                        listener.cancel()
                else:
                    self._begin(*_build_request(message))
            except GlmError as error:
                self.say(id=name, error=str(error), kind=type(error).__name__)
        for listener in self._listeners:
            listener.join()

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
        for listener in list(self._running.values()):
            listener.cancel()

    def _begin(self, name: str, request: ChatRequest) -> None:
        if name in self._running:
            raise RequestError(f"request {name!r} is being answered already; give each an id of its own")
        if len(self._running) >= self._max_requests:
            raise glm_core.BusyError(f"{self._max_requests} requests are being answered; wait for one to end")
        stream = self._model.stream(request)  # here, so that a refusal is the next line
        emit = functools.partial(self._tell, name, AnswerProgress())
        # Writing a line blocks while nobody reads, and with it the reading of this answer: no other bound.
        listener = StreamListener(lambda: stream, emit, max_pending=None)
        self._running[name] = listener
        self._listeners = [*(each for each in self._listeners if each.is_running), listener]
        listener.start()

    def _tell(self, name: str, progress: AnswerProgress, event: ListenerEvent) -> None:
        """Write what has come of an answer; called on its thread."""
        if isinstance(event, Delta):
            progress.add(event)
            if event.text:
                self.say(id=name, text=event.text)
        elif isinstance(event, Ended):
            del self._running[name]  # before the last line: who has read it may use the id again
            if event.error is not None:
                self.say(id=name, error=str(event.error), kind=type(event.error).__name__)
            elif progress.finish_reason is None:
                self.say(id=name, finish_reason="cancelled")
            else:
                tokens = progress.usage.completion_tokens
                self.say(id=name, finish_reason=progress.finish_reason, completion_tokens=tokens)


def _parse(line: bytes) -> dict[str, Any]:
    try:
        message = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise RequestError(f"a line is not JSON of at most {LONGEST_LINE} bytes: {error}") from error
    if not isinstance(message, dict) or not isinstance(message.get("id", message.get("cancel")), str):
        raise RequestError('a line must be an object with a text "id", or "cancel"')
    return message


def _build_request(message: Mapping[str, Any]) -> tuple[str, ChatRequest]:
    if unknown := sorted(set(message) - FIELDS):
        raise RequestError(f"field {unknown[0]!r} is unknown; known are {', '.join(sorted(FIELDS))}")
    try:
        return message["id"], ChatRequest(
            messages=tuple(map(parse_message, message["messages"])),
            sampling=glm_core.Sampling(**message.get("sampling", {})),
            adapter=message.get("adapter"),
            stop=tuple(message.get("stop", ())),
            seed=message.get("seed"),
        )
    except (TypeError, KeyError) as error:
        raise RequestError(f"the request has the wrong shape: {error}") from error
