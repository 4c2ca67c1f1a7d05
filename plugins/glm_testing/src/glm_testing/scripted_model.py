"""A model that does what its question says, for tests of frontends; needs no runtime, device or pytest.

The last message of a request is a command:

=================  =========================================================================
``say TEXT``       answers TEXT
``long``           answers `LONG_ANSWER`
``hold TEXT``      answers TEXT, its first piece at once and the rest when the gate is opened
``forever``        answers one word and then nothing until it is closed
``fail TEXT``      answers TEXT and then raises `DeviceError`
``crash TEXT``     answers TEXT and then raises what no runtime should
``refuse``         raises `BusyError` at once
=================  =========================================================================

Anything else is answered with itself.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator

from glm_core import hookimpl
from glm_core.chat_model import ChatModel
from glm_core.errors import BusyError, ClosedError, DeviceError
from glm_core.records import ChatRequest, Delta, ModelInfo, Sampling, Usage

from .hosts import make_host

LONG_ANSWER = " ".join(f"word{number}" for number in range(2000))
"""About 16,000 characters."""

FAILURE = "the scripted device failed, as it was asked to"
_PIECE = 3  # characters: so short that words, and the tags of hostile HTML, are split over deltas
_LONG_PIECE = 200  # characters: the long answer is for its length, and must not take long


class ScriptedModel:
    """A model, and the runtime that answers for it.

    Attributes:
        requests: every request so far.
        gate: set it to let ``hold`` go on.

    Args:
        name: what it is called.
        adapters: names that requests may choose from.
        note: told what happens and to which question: ``begun``, ``ended``, ``closed`` (before its
            end), and ``model closed``; called from any thread.
    """

    GLM_API_VERSION = 2

    def __init__(
        self,
        name: str = "scripted",
        adapters: tuple[str, ...] = (),
        note: Callable[[str, str], None] = lambda event, question: None,
    ) -> None:
        defaults = Sampling(
            max_length=4096, temperature=0.95, top_p=0.7, top_k=50, repetition_penalty=1.0, do_sample=True
        )
        self.info = ModelInfo(name, "scripted", 0, 4096, defaults, adapters)
        self.requests: list[ChatRequest] = []
        self.gate = threading.Event()
        self.closed = threading.Event()
        self.note = note

    @property
    def model(self) -> ChatModel:
        """Return it as core hands it to a frontend."""
        return ChatModel(make_host(scripted=self), "scripted", self)

    def close(self) -> None:
        """End what runs."""
        if not self.closed.is_set():
            self.closed.set()
            self.note("model closed", "")

    @hookimpl
    def chat_stream(self, model: object, request: ChatRequest) -> Iterator[Delta]:
        """Begin to do what the question says."""
        self.requests.append(request)
        question = str(request.messages[-1].content if request.prompt is None else request.prompt)
        command, _, text = question.strip().partition(" ")
        self.note("begun", question)
        if command == "refuse":
            raise BusyError("4 requests wait already; try again later")
        return ScriptedStream(self, question, command, text)


class ScriptedStream(Iterator[Delta]):
    """One answer; `close` may come from any thread and wakes who waits.

    Args:
        runtime: what it belongs to.
        question: the whole question, for notes.
        command: what to do.
        text: what to say.
    """

    def __init__(self, runtime: ScriptedModel, question: str, command: str, text: str) -> None:
        self._runtime = runtime
        self._question = question
        self._command = command
        known = command in ("say", "hold", "fail", "crash")
        answer = text if known else {"long": LONG_ANSWER, "forever": "forever "}.get(command, question)
        size = _LONG_PIECE if command == "long" else _PIECE
        self._pieces = [answer[start : start + size] for start in range(0, len(answer), size)]
        self._given = 0
        self._over = False
        self._closed = threading.Event()
        self._lock = threading.RLock()  # dropped, and so closed, perhaps while it is held

    def __next__(self) -> Delta:
        if self._over or self._closed.is_set():
            raise StopIteration
        if self._waits() and not self._wait_for_more():
            raise StopIteration
        if self._runtime.closed.is_set():
            raise ClosedError("the scripted model was closed")
        if self._given < len(self._pieces):
            self._given += 1
            return Delta(self._pieces[self._given - 1], (self._given,))
        self._end("ended")
        if self._command == "fail":
            raise DeviceError(FAILURE)
        if self._command == "crash":
            raise RuntimeError("a bug of the scripted model, as it was asked for")
        return Delta("", (), "stop", Usage(prompt_tokens=len(self._question), completion_tokens=self._given))

    def close(self) -> None:
        """Cancel; at the answer's end, or a second time, this does nothing."""
        self._closed.set()
        self._end("closed")

    def _waits(self) -> bool:
        if self._command == "forever":
            return self._given == len(self._pieces)
        return self._command == "hold" and self._given == 1

    def _wait_for_more(self) -> bool:
        """Wait for the gate, a close, or the model's end; return whether there is more to say."""
        while not (self._closed.wait(0.01) or self._runtime.closed.is_set()):
            if self._command == "hold" and self._runtime.gate.is_set():
                break
        return not self._closed.is_set()

    def _end(self, how: str) -> None:
        with self._lock:
            if not self._over:
                self._over = True
                self._runtime.note(how, self._question)

    def __del__(self) -> None:
        self.close()
