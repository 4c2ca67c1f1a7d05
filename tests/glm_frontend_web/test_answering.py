"""Reading an answer beside a page that may go away at any moment."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Generator, Iterator
from typing import Any, NoReturn

import pytest
from glm_frontend_web._answering import PageAnswer
from patience import PATIENCE_SECONDS

from glm_core import Delta, PluginError, RequestError, Usage


class Stream:
    """Deltas that can be held back, and a note of being closed."""

    def __init__(self, deltas: Any, hold_after: Any = None) -> None:
        self.deltas = list(deltas)
        self.hold_after = hold_after
        self.go_on = threading.Event()
        self.closed = threading.Event()

    def __iter__(self) -> Iterator[Any]:
        for number, delta in enumerate(self.deltas):
            if number == self.hold_after:
                self.go_on.wait(PATIENCE_SECONDS)
            yield delta

    def close(self) -> None:
        """Note it."""
        self.closed.set()


def read(answer: Any) -> list[str]:
    """Run an answer to its end; the texts at every pause."""

    async def texts() -> list[str]:
        return [answer.progress.text async for _ in answer.updates()]

    return asyncio.run(texts())


def test_an_answer_is_read_to_its_end() -> None:
    """The text is joined and cleaned, the usage is the runtime's, and the stream is closed."""
    usage = Usage(completion_tokens=9)
    stream: Any = Stream([Delta("a\x1b", (1,)), Delta("b", (2,)), Delta("", (), "stop", usage)])
    answer = PageAnswer(lambda: stream)
    read(answer)
    progress = answer.progress
    assert (progress.text, progress.finish_reason, progress.usage) == ("ab", "stop", usage)
    assert not answer.was_stopped
    assert stream.closed.wait(PATIENCE_SECONDS)


def test_a_stopped_answer_keeps_what_came_and_counts_it() -> None:
    """Stop closes the stream although the runtime is silent; the tokens so far are the usage."""
    stream: Any = Stream([Delta("a", (1, 2)), Delta("never", (3,))], hold_after=1)
    answer = PageAnswer(lambda: stream)

    async def stop_at_first_text() -> None:
        async for _ in answer.updates():
            if answer.progress.text:
                answer.stop()

    asyncio.run(stop_at_first_text())
    assert answer.was_stopped
    assert (answer.progress.text, answer.progress.usage.completion_tokens) == ("a", 2)
    assert stream.closed.wait(PATIENCE_SECONDS)
    stream.go_on.set()


def test_a_generator_that_is_busy_is_closed_at_its_next_delta() -> None:
    """A runtime whose stream cannot be closed from elsewhere ends all the same, a little later."""
    go_on, closed = threading.Event(), threading.Event()

    def busy() -> Generator[Delta, None, None]:
        try:
            yield Delta("a", (1,))
            go_on.wait(PATIENCE_SECONDS)
            yield Delta("never", (2,))
        finally:
            closed.set()

    answer = PageAnswer(busy)

    async def stop_at_first_text() -> None:
        async for _ in answer.updates():
            if answer.progress.text:
                answer.stop()

    asyncio.run(stop_at_first_text())
    assert answer.progress.text == "a"
    go_on.set()
    assert closed.wait(PATIENCE_SECONDS)


def test_a_page_that_goes_away_closes_the_stream() -> None:
    """Closing the reading, as gradio does when a visitor leaves, ends the stream."""
    stream: Any = Stream([Delta("a", (1,)), *(Delta("", ()) for _ in range(3))], hold_after=2)
    answer = PageAnswer(lambda: stream)

    async def leave() -> None:
        growth = answer.updates()
        await anext(growth)
        await growth.aclose()

    asyncio.run(leave())
    assert stream.closed.wait(PATIENCE_SECONDS)
    stream.go_on.set()


def test_a_silent_runtime_still_lets_gradio_notice_a_visitor_who_left() -> None:
    """Reading pauses now and then although nothing has come."""
    stream: Any = Stream([Delta("a", (1,), "stop", Usage())], hold_after=0)
    answer = PageAnswer(lambda: stream)

    async def pause_once() -> None:
        growth = answer.updates()
        await anext(growth)
        assert answer.progress.text == ""
        stream.go_on.set()
        async for _ in growth:
            pass

    asyncio.run(pause_once())
    assert answer.progress.text == "a"


def test_the_queue_position_is_known_while_waiting() -> None:
    """Empty deltas say how many are ahead; the first text ends that."""
    stream: Any = Stream(
        [Delta("", queue_position=3), Delta("a", (1,)), Delta("", (), "stop", Usage())], hold_after=1
    )
    answer = PageAnswer(lambda: stream)
    positions = []

    async def follow() -> None:
        async for _ in answer.updates():
            positions.append(answer.progress.queue_position)
            if positions[-1] == 3:
                stream.go_on.set()

    asyncio.run(follow())
    assert 3 in positions
    assert answer.progress.queue_position == 0


def test_errors_reach_the_page() -> None:
    """What opening or reading the stream raises is raised where the answer is awaited."""

    def refuse() -> NoReturn:
        raise RequestError("too long")

    with pytest.raises(RequestError, match="too long"):
        read(PageAnswer(refuse))
    stream: Any = Stream([Delta("a", (1,))])
    with pytest.raises(PluginError, match="without a finish_reason"):
        read(PageAnswer(lambda: stream))
