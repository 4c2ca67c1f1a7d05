"""One answer on its thread: pausing for a slow reader, and being cancelled."""

from __future__ import annotations

import threading

import pytest
from api_support import ScriptedRuntime, until
from glm_frontend_api.answers import Answer, Event, Failed, Opened, Piece
from patience import PATIENCE_SECONDS

from glm_core import ChatRequest, Message, PluginError


class Watched:
    """An answer and what came of it.

    Args:
        runtime: what answers.
        text: the question.
        buffered: pieces that may wait.
    """

    def __init__(self, runtime: ScriptedRuntime, text: str, buffered: int = 64) -> None:
        self.events: list[Event] = []
        self.ended = threading.Event()
        request = ChatRequest((Message("user", text),))
        self.answer = Answer(
            runtime.model, request, 0, self.events.append, buffered=buffered, ended=self.ended.set
        )
        self.answer.start()

    @property
    def texts(self) -> list[str]:
        """The text of the pieces so far."""
        return [event.delta.text for event in self.events if isinstance(event, Piece)]


def test_pieces_come_in_order_and_the_thread_ends(runtime: ScriptedRuntime) -> None:
    """First that the model has accepted, then its deltas, and then nothing is left."""
    watched = Watched(runtime, "say a b")
    until(watched.ended.is_set)
    assert isinstance(watched.events[0], Opened)
    assert watched.texts == ["a", " b", ""]
    until(lambda: not watched.answer.running)
    assert not runtime.open_streams


def test_slow_reader_pauses_its_own_answer_only(runtime: ScriptedRuntime) -> None:
    """Nothing is generated beyond the pieces that may wait; each that is read makes room for one."""
    slow = Watched(runtime, "say a b c d e f", buffered=2)
    until(lambda: len(slow.texts) == 2)
    quick = Watched(runtime, "say " + " ".join("x" * 50))
    until(quick.ended.is_set)
    assert slow.texts == ["a", " b"]
    for _ in range(5):
        slow.answer.take()
    until(slow.ended.is_set)
    assert slow.texts == ["a", " b", " c", " d", " e", " f", ""]


@pytest.mark.parametrize("command", ["forever", "hang"])
def test_cancelled_answer_ends_without_an_error(runtime: ScriptedRuntime, command: str) -> None:
    """Cancelling, also twice, closes the model's stream and says nothing more."""
    watched = Watched(runtime, command)
    until(lambda: runtime.open_streams)
    watched.answer.cancel()
    watched.answer.cancel()
    until(watched.ended.is_set)
    assert not runtime.open_streams
    assert not [event for event in watched.events if isinstance(event, Failed)]


def test_paused_answer_can_be_cancelled(runtime: ScriptedRuntime) -> None:
    """An answer that waits for its reader ends as well."""
    watched = Watched(runtime, "forever", buffered=1)
    until(lambda: len(watched.texts) == 1)
    watched.answer.cancel()
    until(watched.ended.is_set)
    assert not runtime.open_streams


def test_answer_cancelled_while_it_is_opened_is_closed(
    runtime: ScriptedRuntime, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A model that takes long to accept a request does not keep what nobody wants any more."""
    opening, go_on = threading.Event(), threading.Event()
    start = ScriptedRuntime._answer

    def slowly(self: ScriptedRuntime, command: str, rest: str) -> object:
        opening.set()
        go_on.wait(PATIENCE_SECONDS)
        return start(self, command, rest)

    monkeypatch.setattr(ScriptedRuntime, "_answer", slowly)
    watched = Watched(runtime, "forever")
    until(opening.is_set)
    watched.answer.cancel()
    go_on.set()
    until(watched.ended.is_set)
    assert watched.events == []
    assert not runtime.open_streams


@pytest.mark.parametrize("command", ["refuse broken", "fail", "stop short"])
def test_errors_are_events(runtime: ScriptedRuntime, command: str) -> None:
    """Whatever a runtime raises, and an end without a reason, arrives as a failure."""
    watched = Watched(runtime, command)
    until(watched.ended.is_set)
    last = watched.events[-1]
    assert isinstance(last, Failed)
    assert isinstance(last.error, PluginError)
