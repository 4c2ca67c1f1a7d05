"""Tests of running several requests at the same time."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from fake_plugins import FakeModel, plugin
from glm_jobs.bench.streams import run_together
from glm_testing import make_host
from patience import PATIENCE_SECONDS

from glm_core import BusyError, ChatModel, ChatRequest, Message
from glm_core.records import Delta, Usage


class Clock:
    """A clock that moves when it is told to."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def model_of(chat_stream: Callable[..., Any]) -> ChatModel:
    """A model whose runtime answers with the given function of a request."""
    return ChatModel(make_host(r=plugin(chat_stream=chat_stream)), "r", FakeModel())


def questions(*texts: str) -> list[ChatRequest]:
    """One request for each text."""
    return [ChatRequest((Message("user", text),)) for text in texts]


def test_times_are_the_clocks() -> None:
    """A prefill of 3 seconds and a token every half second show as such."""
    clock = Clock()

    def answer(request: ChatRequest) -> Iterator[Delta]:
        def deltas() -> Iterator[Delta]:
            clock.now += 3
            yield Delta("a", (1,))
            for token in (2, 3):
                clock.now += 0.5
                yield Delta("b", (token,))
            yield Delta("", (), "length", Usage(5, 3))

        return deltas()

    clock.now = 10
    [timeline] = run_together(model_of(answer), questions("q"), clock=clock)
    assert timeline.asked == 10
    assert timeline.arrivals == ((13, 1), (13.5, 2), (14, 3))


def test_requests_run_at_the_same_time_and_keep_their_order() -> None:
    """Each answer waits until all have begun, which only requests at the same time can."""
    together = threading.Barrier(3, timeout=PATIENCE_SECONDS)

    def answer(request: ChatRequest) -> Iterator[Delta]:
        def deltas() -> Iterator[Delta]:
            together.wait()
            yield Delta("a", (1,))
            yield Delta("", (), "stop", Usage(len(request.messages[0].content), 1))

        return deltas()

    timelines = run_together(model_of(answer), questions("a", "bb", "ccc"))
    assert [timeline.usage.prompt_tokens for timeline in timelines] == [1, 2, 3]


def test_first_failure_cancels_the_others() -> None:
    """A full queue ends the measurement in its own words, and no answer runs on."""
    closed = threading.Event()
    running = threading.Event()

    def answer(request: ChatRequest) -> Iterator[Delta]:
        if request.messages[0].content == "refused":
            assert running.wait(PATIENCE_SECONDS)
            raise BusyError("8 requests wait already")

        def deltas() -> Iterator[Delta]:
            try:
                while True:
                    running.set()
                    yield Delta("a", (1,))
            finally:
                closed.set()

        return deltas()

    with pytest.raises(BusyError, match="8 requests wait already"):
        run_together(model_of(answer), questions("endless", "refused"))
    assert closed.wait(PATIENCE_SECONDS)


def test_interrupt_cancels_all(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C ends the wait for answers, and every stream is closed."""
    closed = threading.Semaphore(0)
    running = threading.Semaphore(0)

    class Interrupted(queue.SimpleQueue[object]):
        def get(self, block: bool = True, timeout: float | None = None) -> object:
            assert running.acquire(timeout=PATIENCE_SECONDS)
            assert running.acquire(timeout=PATIENCE_SECONDS)
            raise KeyboardInterrupt

    def answer(request: ChatRequest) -> Iterator[Delta]:
        def deltas() -> Iterator[Delta]:
            try:
                running.release()
                while True:
                    yield Delta("a", (1,))
            finally:
                closed.release()

        return deltas()

    monkeypatch.setattr(queue, "SimpleQueue", Interrupted)
    with pytest.raises(KeyboardInterrupt):
        run_together(model_of(answer), questions("a", "b"))
    assert closed.acquire(timeout=PATIENCE_SECONDS)
    assert closed.acquire(timeout=PATIENCE_SECONDS)
