"""A scripted model and a view that remembers what it was shown."""

from __future__ import annotations

import signal
from collections.abc import Generator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from glm_frontend_cli._answering import AnswerReader
from glm_frontend_cli._session import Session
from glm_frontend_cli._texts import Texts
from glm_frontend_cli._view import TypedLine
from glm_testing import make_host

from glm_core import ChatModel, ChatRequest, Delta, GlmError, ModelInfo, Sampling, Usage, hookimpl
from glm_core.conversation import Conversation, Turn


@dataclass(eq=False)  # pluggy keeps plugins in sets
class ScriptedRuntime:
    """Answers with the given pieces; the last delta comes with ``usage`` and ``finish_reason``.

    With ``refusal`` it answers nothing, with ``queue`` it has the request wait at these positions first.
    """

    pieces: Sequence[str] = ("hello",)
    adapters: tuple[str, ...] = ()
    directories: dict[str, Path] = field(default_factory=dict)
    devices: tuple[str, ...] = ()
    dtype: str = ""
    error: GlmError | None = None
    finish_reason: Any = "stop"
    usage: Usage = field(default_factory=Usage)
    interrupt_after: int | None = None
    refusal: GlmError | None = None
    queue: Sequence[int] = ()
    requests: list[ChatRequest] = field(default_factory=list)
    closed: int = 0
    GLM_API_VERSION = 2

    @property
    def info(self) -> ModelInfo:
        """What the banner and ``/info`` show."""
        defaults = Sampling(max_length=2048, temperature=0.95, top_p=0.7, top_k=50, repetition_penalty=1.0)
        return ModelInfo(
            *("scripted", "chatglm", 6_200_000_000, 2048, defaults, self.adapters),
            devices=self.devices,
            dtype=self.dtype,
        )

    def close(self) -> None:
        """Nothing to give back."""

    def add_adapter(self, name: str, directory: Path, inside: Path | None = None) -> None:
        """List it, and note where it is."""
        self.adapters = (*self.adapters, name)
        self.directories[name] = directory

    def remove_adapter(self, name: str) -> None:
        """Forget it."""
        self.adapters = tuple(adapter for adapter in self.adapters if adapter != name)

    @hookimpl
    def chat_stream(self, model: object, request: ChatRequest) -> Generator[Delta, None, None]:
        """Note the request and start to answer."""
        self.requests.append(request)
        if self.refusal:
            raise self.refusal
        return self._answer()

    def _answer(self) -> Generator[Delta, None, None]:
        try:
            for position in self.queue:
                yield Delta("", queue_position=position)
            for number, piece in enumerate(self.pieces):
                if number == self.interrupt_after:
                    signal.raise_signal(signal.SIGINT)  # as the terminal does for Ctrl-C
                yield Delta(piece, (number,))
            while self.interrupt_after is not None:  # only closing the stream ends this answer
                yield Delta("", (0,))
            if self.error:
                raise self.error
            yield Delta("", (), self.finish_reason, self.usage)
        finally:
            self.closed += 1

    @property
    def model(self) -> ChatModel:
        """This runtime as core hands it to a frontend."""
        return ChatModel(make_host(scripted=self), "scripted", self)


@dataclass
class RecordingView:
    """Reads from a list of lines and keeps what it was shown, by kind."""

    lines: list[TypedLine] = field(default_factory=list)
    can_prefill: bool = True
    shown: list[tuple[str, str]] = field(default_factory=list)
    prefills: list[str] = field(default_factory=list)
    statuses: list[str] = field(default_factory=list)
    clipboard: bool | None = True

    def read(self, prefill: str, status: str) -> TypedLine | None:
        """The next line of the list."""
        self.prefills.append(prefill)
        self.statuses.append(status)
        return self.lines.pop(0) if self.lines else None

    def show(self, text: str) -> None:
        """Keep it."""
        self.shown.append(("show", text))

    def show_notice(self, text: str) -> None:
        """Keep it."""
        self.shown.append(("notice", text))

    def show_error(self, text: str) -> None:
        """Keep it."""
        self.shown.append(("error", text))

    def show_turns(self, turns: Sequence[Turn]) -> None:
        """Keep the questions and answers."""
        self.shown.append(("turns", repr([(turn.question, turn.answer) for turn in turns])))

    def show_answer(self, reader: AnswerReader) -> None:
        """Read the answer to its end."""
        text = "".join(reader.read_pieces())
        self.shown.append(("answer", text))

    def clear(self) -> None:
        """Note that the screen was emptied."""
        self.shown.append(("cleared screen", ""))

    def copy(self, text: str) -> bool | None:
        """Keep it."""
        self.shown.append(("copied", text))
        return self.clipboard

    @property
    def last(self) -> tuple[str, str]:
        """What was shown last."""
        return self.shown[-1]


@pytest.fixture
def runtime() -> ScriptedRuntime:
    """A model that answers ``hello``; change its fields to script it."""
    return ScriptedRuntime()


@pytest.fixture
def view() -> RecordingView:
    """A view that remembers."""
    return RecordingView()


@pytest.fixture
def say() -> Texts:
    """English texts."""
    return Texts("en")


@pytest.fixture
def session(runtime: ScriptedRuntime, view: RecordingView, say: Texts) -> Session:
    """A chat with the scripted model on the remembering view."""
    return Session(runtime.model, Conversation(), view, say)
