"""Reading an answer that can be stopped."""

from __future__ import annotations

import signal
import threading
from collections.abc import Generator
from typing import TYPE_CHECKING, Any, NoReturn

import pytest
from glm_frontend_cli._answering import AnswerReader

from glm_core import ChatRequest, Delta, PluginError, RequestError, Usage

if TYPE_CHECKING:
    from tests.glm_frontend_cli.conftest import ScriptedRuntime


def test_answer_carries_text_reason_and_usage() -> None:
    """A whole answer ends as the model says."""
    deltas = [Delta("你", (1,)), Delta("好", (2,)), Delta("", (), "length", Usage(3, 2))]
    with AnswerReader(lambda: (delta for delta in deltas)) as reader:
        assert "".join(reader.read_pieces()) == "你好"
    answer = reader.progress
    assert (answer.text, answer.finish_reason, answer.usage) == ("你好", "length", Usage(3, 2))


def test_ctrl_c_stops_the_answer_and_closes_the_stream(runtime: ScriptedRuntime) -> None:
    """The partial text is kept, the iterator is closed, and Ctrl-C works as before afterwards."""
    runtime.pieces, runtime.interrupt_after = ["one ", "two "], 1
    before = signal.getsignal(signal.SIGINT)
    request: Any = object()
    with AnswerReader(lambda: runtime.chat_stream(None, request)) as reader:
        text = "".join(reader.read_pieces())
        assert reader.is_stopping
        assert runtime.closed == 1
    assert reader.progress.finish_reason is None
    assert text.startswith("one ")
    assert signal.getsignal(signal.SIGINT) is before


def test_stopped_answer_counts_its_own_tokens() -> None:
    """Without a last delta, tokens are counted as they came."""

    def endless() -> Generator[Delta, None, None]:
        yield Delta("x", (1, 2))
        signal.raise_signal(signal.SIGINT)
        while True:
            yield Delta("", ())

    with AnswerReader(endless) as reader:
        for _ in reader.read_pieces():
            pass
    assert reader.progress.usage.completion_tokens == 2


def test_leaving_early_closes_the_stream(runtime: ScriptedRuntime) -> None:
    """A view that fails in the middle leaves no answer running."""
    runtime.pieces = ["x"] * 10_000

    def break_off() -> None:
        with AnswerReader(lambda: runtime.chat_stream(None, ChatRequest(prompt="x"))) as reader:
            next(reader.read_pieces())
            raise BrokenPipeError

    with pytest.raises(BrokenPipeError):
        break_off()
    assert runtime.closed == 1


def test_errors_of_the_runtime_arrive_where_the_answer_is_shown(runtime: ScriptedRuntime) -> None:
    """An error is raised with its own type, after the text before it."""
    runtime.error = RequestError("too long")
    pieces: list[str] = []
    with AnswerReader(lambda: runtime.chat_stream(None, ChatRequest(prompt="x"))) as reader:
        with pytest.raises(RequestError, match="too long"):
            pieces.extend(reader.read_pieces())
    assert "".join(pieces) == "hello"


def test_errors_before_the_first_delta_arrive_too() -> None:
    """Opening the stream may fail as well."""

    def refuse() -> NoReturn:
        raise RequestError("does not fit")

    with AnswerReader(refuse) as reader:
        with pytest.raises(RequestError, match="does not fit"):
            list(reader.read_pieces())


def test_stream_without_a_last_delta_is_the_runtimes_fault() -> None:
    """A broken promise is reported, not shown as an answer."""
    with AnswerReader(lambda: (delta for delta in [Delta("x")])) as reader:
        with pytest.raises(PluginError, match="without a finish_reason"):
            list(reader.read_pieces())


def test_ignored_ctrl_c_stays_ignored(runtime: ScriptedRuntime) -> None:
    """A background job that ignores Ctrl-C goes on ignoring it while it answers."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with AnswerReader(lambda: runtime.chat_stream(None, ChatRequest(prompt="x"))) as reader:
            assert signal.getsignal(signal.SIGINT) == signal.SIG_IGN
            list(reader.read_pieces())
    finally:
        signal.signal(signal.SIGINT, before)


def test_queue_position_is_known_until_the_request_begins() -> None:
    """While others come first, the stream says how many; afterwards none."""
    deltas = [
        Delta("", queue_position=2),
        Delta("", queue_position=1),
        Delta("a", (1,)),
        Delta("", (), "stop", Usage()),
    ]
    positions = [0]
    with AnswerReader(lambda: (delta for delta in deltas)) as reader:
        for _ in reader.read_pieces():
            if reader.progress.queue_position != positions[-1]:
                positions.append(reader.progress.queue_position)
    assert positions == [0, 2, 1, 0]
    assert reader.progress.text == "a"


class BlockedStream:
    """Waits in a queue for ever; closing it, from whatever thread, ends that."""

    def __init__(self) -> None:
        self.closed = threading.Event()

    def __iter__(self) -> Any:
        return self

    def __next__(self) -> None:
        signal.raise_signal(signal.SIGINT)
        self.closed.wait()
        raise StopIteration

    def close(self) -> None:
        """End the wait."""
        self.closed.set()


def test_ctrl_c_ends_a_read_that_waits() -> None:
    """The stream is closed by the thread that shows the answer, so no delta has to come first."""
    blocked: Any = BlockedStream()
    with AnswerReader(lambda: blocked) as reader:
        assert "".join(reader.read_pieces()) == ""
    assert blocked.closed.is_set()
    assert reader.progress.finish_reason is None


class RunningGenerator:
    """A generator in the middle of its work while another thread tries to close it."""

    def __init__(self) -> None:
        self.tried = threading.Event()
        self.deltas: Any = self._answer()
        self.failures: list[Exception] = []

    def _answer(self) -> Generator[Delta, None, None]:
        signal.raise_signal(signal.SIGINT)
        self.tried.wait()
        yield Delta("late")
        pytest.fail("the answer went on after Ctrl-C")

    def __iter__(self) -> Any:
        return self.deltas

    def close(self) -> None:
        """Close the generator, which refuses while it runs."""
        try:
            self.deltas.close()
        except ValueError as error:
            self.failures.append(error)
            raise
        finally:
            self.tried.set()


def test_ctrl_c_waits_for_a_runtime_that_cannot_be_closed_from_outside() -> None:
    """A generator that runs is closed at its next delta instead."""
    running: Any = RunningGenerator()
    with AnswerReader(lambda: running) as reader:
        list(reader.read_pieces())
    assert len(running.failures) == 1
    assert running.deltas.gi_frame is None
    assert reader.progress.finish_reason is None
