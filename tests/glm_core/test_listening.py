"""Listening to an answer from a thread: order, pauses, cancelling at every point, errors at every point."""

from __future__ import annotations

import queue
import random
import threading
from collections.abc import Callable, Generator, Iterator
from typing import Any

import pytest
from patience import PATIENCE_SECONDS

from glm_core import Delta, PluginError, RequestError, Usage
from glm_core.listening import AnswerProgress, Ended, ListenerEvent, Opened, StreamListener
from glm_core.records import DeltaStream

LENGTH = 6
LAST = Delta("", (), "stop", Usage(3, 2))


class Script:
    """A stream that a test watches; it can be held before its Nth delta, and fail there.

    Args:
        length: deltas before the last one.
        hold_at: number of the delta before which it waits for `go_on`, or for being closed.
        fail_at: number of the delta in whose place it raises.
        closable: whether closing it from elsewhere ends a wait, as the engine's streams can; a generator
            cannot be closed while it runs.
    """

    def __init__(
        self,
        length: int = LENGTH,
        *,
        hold_at: int | None = None,
        fail_at: int | None = None,
        closable: bool = True,
    ) -> None:
        self.held = threading.Event()
        self.go_on = threading.Event()
        self.closed = threading.Event()
        self.given = 0
        self._length = length
        self._hold_at = hold_at
        self._fail_at = fail_at
        self._closable = closable
        self._generator = self._generate()

    def __iter__(self) -> Iterator[Delta]:
        return self._generator if not self._closable else self._watch()

    def close(self) -> None:
        """Cancel."""
        if self._closable:
            self.closed.set()
            self.go_on.set()
        else:
            self._generator.close()

    def _watch(self) -> Iterator[Delta]:
        for delta in self._generator:
            if self.closed.is_set():
                return
            yield delta

    def _generate(self) -> Generator[Delta]:
        try:
            for number in range(self._length + 1):
                if number == self._hold_at:
                    self.held.set()
                    assert self.go_on.wait(PATIENCE_SECONDS)
                if number == self._fail_at:
                    raise RequestError("broken on purpose")
                self.given += 1
                yield Delta(f"{number} ", (number,)) if number < self._length else LAST
        finally:
            self.closed.set()


class Heard:
    """A listener, and every event that it has emitted."""

    def __init__(self, open_stream: Callable[[], Any], *, max_pending: int | None = 64) -> None:
        self.events: list[ListenerEvent] = []
        self.arrivals: queue.SimpleQueue[ListenerEvent] = queue.SimpleQueue()
        self.listener = StreamListener(open_stream, self._emit, max_pending=max_pending)
        self.listener.start()

    def _emit(self, event: ListenerEvent) -> None:
        self.events.append(event)
        self.arrivals.put(event)

    def next(self) -> ListenerEvent:
        """Wait for an event."""
        return self.arrivals.get(timeout=PATIENCE_SECONDS)

    def end(self) -> Ended:
        """Wait for the end; check that it comes once, and last."""
        self.listener.join(PATIENCE_SECONDS)
        assert not self.listener.is_running
        *others, last = self.events
        assert isinstance(last, Ended)
        assert not any(isinstance(event, Ended) for event in others)
        assert all(isinstance(event, Opened) == (number == 0) for number, event in enumerate(others))
        return last

    @property
    def deltas(self) -> list[Delta]:
        """Return the deltas so far."""
        return [event for event in self.events if isinstance(event, Delta)]


@pytest.mark.parametrize("closable", [True, False], ids=["closable", "generator"])
def test_events_come_in_order_and_the_stream_is_closed_before_the_last(closable: bool) -> None:
    """First that the model has accepted, then its deltas; who hears of the end finds the model free."""
    script = Script(closable=closable)
    free_at_the_end: list[bool] = []

    def emit(event: ListenerEvent) -> None:
        if isinstance(event, Ended):
            free_at_the_end.append(script.closed.is_set())

    heard = Heard(lambda: script)
    assert heard.end() == Ended()
    assert heard.deltas == [*(Delta(f"{number} ", (number,)) for number in range(LENGTH)), LAST]
    script = Script(closable=closable)
    open_script: Callable[[], Any] = lambda: script  # noqa: E731
    listener = StreamListener(open_script, emit)
    listener.start()
    listener.join(PATIENCE_SECONDS)
    assert free_at_the_end == [True]


@pytest.mark.parametrize("closable", [True, False], ids=["closable", "generator"])
@pytest.mark.parametrize("point", range(LENGTH + 1))
def test_cancelling_at_any_point_closes_the_stream(point: int, closable: bool) -> None:
    """Nothing is told after it but the end, and that is no failure; where it can be, a wait is cut short."""
    script = Script(hold_at=point, closable=closable)
    heard = Heard(lambda: script)
    assert script.held.wait(PATIENCE_SECONDS)
    for _ in range(3):
        heard.listener.cancel()
    if not closable:
        script.go_on.set()
    assert heard.end() == Ended()
    assert len(heard.deltas) == point
    assert script.closed.is_set()


@pytest.mark.parametrize("closable", [True, False], ids=["closable", "generator"])
@pytest.mark.parametrize("point", range(LENGTH + 1))
def test_an_error_at_any_point_is_delivered_after_what_came_before(point: int, closable: bool) -> None:
    """It is the runtime's own error, and the stream is closed."""
    script = Script(fail_at=point, closable=closable)
    heard = Heard(lambda: script)
    assert isinstance(heard.end().error, RequestError)
    assert len(heard.deltas) == point
    assert script.closed.is_set()


def test_errors_of_opening_are_delivered() -> None:
    """A model that refuses is the listener's to hear as well; nothing was opened."""

    def refuse() -> DeltaStream:
        raise RequestError("too long")

    heard = Heard(refuse)
    assert isinstance(heard.end().error, RequestError)
    assert heard.events == [heard.end()]


def test_even_an_exit_in_a_runtime_is_delivered() -> None:
    """No kind of exception ends the thread unheard."""

    def leave() -> Generator[Delta]:
        yield Delta("a")
        raise SystemExit

    assert isinstance(Heard(leave).end().error, SystemExit)


def test_an_end_without_a_reason_is_the_runtimes_fault() -> None:
    """A broken promise is reported, not taken for an answer."""
    heard = Heard(lambda: iter_of(Delta("x")))
    assert isinstance(heard.end().error, PluginError)


def iter_of(*deltas: Delta) -> Generator[Delta]:
    """Yield the deltas."""
    yield from deltas


def test_nothing_is_read_after_the_last_delta() -> None:
    """The answer is complete; whatever a stream does then, it is closed."""
    closed = threading.Event()

    def endless() -> Generator[Delta]:
        try:
            yield LAST
            closed.wait()
        finally:
            closed.set()

    assert Heard(endless).end() == Ended()
    assert closed.is_set()


def test_cancelling_while_the_stream_is_opened_closes_it_unread() -> None:
    """A model that takes long to accept a request does not keep what nobody wants any more."""
    opening, go_on = threading.Event(), threading.Event()
    script = Script()

    def slowly() -> Script:
        opening.set()
        assert go_on.wait(PATIENCE_SECONDS)
        return script

    heard = Heard(slowly)
    assert opening.wait(PATIENCE_SECONDS)
    heard.listener.cancel()
    go_on.set()
    assert heard.end() == Ended()
    assert heard.events == [Ended()]
    assert script.closed.is_set()


def test_a_slow_reader_pauses_its_own_answer_only() -> None:
    """Nothing is read beyond the deltas that may wait; each that is taken makes room for one."""
    slow_script = Script(100)
    slow = Heard(lambda: slow_script, max_pending=2)
    assert [type(slow.next()) for _ in range(3)] == [Opened, Delta, Delta]
    quick = Heard(lambda: Script(50))
    assert quick.end() == Ended()
    assert len(quick.deltas) == 51
    for _ in range(5):
        slow.listener.take()
        assert isinstance(slow.next(), Delta)
        assert slow_script.given <= len(slow.deltas) + 1  # the one that waits for room
    slow.listener.cancel()
    assert slow.end() == Ended()
    assert len(slow.deltas) == 7


def test_without_a_bound_nothing_pauses() -> None:
    """A listener whose emit does all the work needs no `take`."""
    heard = Heard(lambda: Script(500), max_pending=None)
    assert heard.end() == Ended()
    assert len(heard.deltas) == 501


def test_a_reader_that_is_gone_leaves_nothing_running() -> None:
    """An answer that waits for a reader who never comes can be cancelled."""
    script = Script(100)
    heard = Heard(lambda: script, max_pending=1)
    assert [type(heard.next()) for _ in range(2)] == [Opened, Delta]
    heard.listener.cancel()
    assert heard.end() == Ended()
    assert script.closed.is_set()
    heard.listener.cancel()
    heard.listener.take()


def test_a_close_that_fails_does_not_spoil_the_answer(caplog: pytest.LogCaptureFixture) -> None:
    """It is logged by its type only, since a message may hold somebody's prompt."""

    class Broken(Script):
        def close(self) -> None:
            raise OSError("secret prompt")

    heard = Heard(Broken)
    assert heard.end() == Ended()
    assert len(heard.deltas) == LENGTH + 1
    assert "OSError" in caplog.text
    assert "secret" not in caplog.text


def test_streams_are_closed_once_whoever_closes_them() -> None:
    """Cancelling and the end of reading may meet; the runtime hears of it once."""
    closings: list[str] = []

    class Counting(Script):
        def close(self) -> None:
            closings.append(threading.current_thread().name)
            super().close()

    for _ in range(50):
        closings.clear()
        heard = Heard(Counting)
        heard.listener.cancel()
        heard.end()
        assert len(closings) == 1


def test_many_answers_end_well_whatever_happens_to_them() -> None:
    """Slow, hasty and absent readers at once: every stream is closed, every listener ends once."""
    choose = random.Random(7)
    scripts: list[Script] = []
    heards: list[Heard] = []
    for number in range(60):
        fail_at = choose.choice([None, None, choose.randrange(LENGTH)])
        script = Script(choose.randrange(1, 40), fail_at=fail_at, closable=bool(number % 2))
        scripts.append(script)
        heards.append(Heard(lambda script=script: script, max_pending=choose.choice([1, 3, None])))  # type: ignore[misc]

    def read(heard: Heard, patience: int) -> None:
        for _ in range(patience):
            event = heard.next()
            if isinstance(event, Ended):
                return
            if isinstance(event, Delta):
                heard.listener.take()
        heard.listener.cancel()

    readers = [threading.Thread(target=read, args=(heard, choose.randrange(1, 50))) for heard in heards]
    for reader in readers:
        reader.start()
    for reader in readers:
        reader.join(PATIENCE_SECONDS)
    for heard, script in zip(heards, scripts, strict=True):
        heard.end()
        assert script.closed.is_set()


def test_progress_adds_up_text_tokens_and_usage() -> None:
    """Text is cleaned, also of a sequence that two deltas share; the last delta has the model's own usage."""
    progress = AnswerProgress()
    assert [progress.add(Delta("a\x1b", (1, 2))), progress.add(Delta("[31mb\x07", (3,)))] == ["a", "[31mb"]
    assert (progress.text, progress.num_tokens, progress.finish_reason) == ("a[31mb", 3, None)
    assert progress.usage.completion_tokens == 3
    progress.add(LAST)
    assert (progress.finish_reason, progress.usage) == ("stop", Usage(3, 2))


def test_progress_knows_the_place_in_the_queue() -> None:
    """Empty deltas tell it; the first text ends that."""
    progress = AnswerProgress()
    progress.add(Delta("", queue_position=2))
    assert (progress.queue_position, progress.usage) == (2, Usage())
    progress.add(Delta("a", (1,)))
    assert progress.queue_position == 0


def test_progress_measures_until_the_model_does(monkeypatch: pytest.MonkeyPatch) -> None:
    """Until the end, speed is tokens over the seconds since the first of them."""
    now = iter([1.0, 3.0, 5.0, 8.0])
    monkeypatch.setattr("glm_core.listening.time.monotonic", lambda: next(now))
    progress = AnswerProgress()
    progress.add(Delta("a", (1,)))
    assert progress.usage.tokens_per_second == 0
    progress.add(Delta("b", (2, 3, 4, 5)))
    assert progress.usage == Usage(completion_tokens=5, time_to_first_token=2.0, decode_seconds=2.0)
    assert progress.usage.tokens_per_second == 2.0
    assert progress.elapsed_seconds == 7.0
