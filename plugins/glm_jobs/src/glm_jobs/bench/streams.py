"""Several requests at the same time, each read on a thread of its own, with the time of every token."""

from __future__ import annotations

import functools
import queue
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from glm_core.chat_model import ChatModel
from glm_core.listening import Ended, ListenerEvent, StreamListener
from glm_core.records import ChatRequest, Delta, DeltaStream, Usage

Clock = Callable[[], float]

# The wait for an event is cut into pieces of this length, because some systems do not interrupt a wait
# without an end, and Ctrl-C would go unheard.
POLL_SECONDS = 0.2
# A runtime that is cancelled ends within a decode step. One that does not is left behind, because its
# threads are daemons and end with the process.
CANCEL_SECONDS = 5.0


@dataclass(frozen=True)
class Timeline:
    """When the tokens of one answer came.

    Attributes:
        asked: when the request was made, in seconds of the clock.
        arrivals: time, and how many tokens were there from then on; both grow.
        usage: as the runtime reported it.
        finish_reason: why the answer ended.
    """

    asked: float
    arrivals: tuple[tuple[float, float], ...]
    usage: Usage
    finish_reason: str

    @property
    def num_tokens(self) -> int:
        """Tokens of the answer."""
        return max(self.usage.completion_tokens, int(self.arrivals[-1][1]) if self.arrivals else 0)

    @property
    def first(self) -> float:
        """When the first token came."""
        return self.arrivals[0][0] if self.arrivals else self.asked

    @property
    def last(self) -> float:
        """When the last token came."""
        return self.arrivals[-1][0] if self.arrivals else self.asked


def build_timeline(asked: float, received: Sequence[tuple[float, Delta]]) -> Timeline:
    """Put together what a stream sent, with the time of each delta; the last one has a ``finish_reason``."""
    last = received[-1][1]
    assert last.finish_reason is not None  # the listener reports a stream that ends without one as failed
    usage = last.usage or Usage()
    counted = [(when, float(len(delta.token_ids))) for when, delta in received if delta.token_ids]
    if not counted:  # a runtime that knows no ids, such as a proxy: its tokens are spread over its texts
        texts = [when for when, delta in received if delta.text]
        counted = [(when, usage.completion_tokens / len(texts)) for when in texts]
    arrivals: list[tuple[float, float]] = []
    total = 0.0
    for when, count in counted:
        total += count
        arrivals.append((when, total))
    return Timeline(asked, tuple(arrivals), usage, last.finish_reason)


def run_together(
    model: ChatModel, requests: Sequence[ChatRequest], *, clock: Clock = time.perf_counter
) -> list[Timeline]:
    """Ask everything at once and read all answers to their end; timelines in the requests' order.

    Where one fails, or the user interrupts, the others are cancelled.

    Raises:
        GlmError: as the first request that failed raised it.
    """
    ended: queue.SimpleQueue[Ended] = queue.SimpleQueue()
    readers = [_TimedReader(functools.partial(model.stream, request), ended, clock) for request in requests]
    started: list[_TimedReader] = []
    num_ended = 0
    try:
        for reader in readers:
            reader.listener.start()
            started.append(reader)
        while num_ended < len(readers):
            try:
                event = ended.get(timeout=POLL_SECONDS)
            except queue.Empty:
                continue
            if event.error is not None:
                raise event.error
            num_ended += 1
    finally:
        for reader in started:
            reader.listener.cancel()  # does nothing to a reader that has ended
        deadline = time.monotonic() + CANCEL_SECONDS
        for reader in started:
            reader.listener.join(max(0.0, deadline - time.monotonic()))
    return [build_timeline(reader.asked, reader.received) for reader in readers]


class _TimedReader:
    """Reads one answer and notes when each delta came.

    Attributes:
        asked: when the request was made.
        received: each delta with its time.
        listener: reads the stream.
    """

    def __init__(
        self,
        open_stream: Callable[[], DeltaStream],
        ended: queue.SimpleQueue[Ended],
        clock: Clock,
    ) -> None:
        self.asked = 0.0
        self.received: list[tuple[float, Delta]] = []
        self._open_stream, self._ended, self._clock = open_stream, ended, clock
        # No limit of pending deltas, because a reader that waits would measure its own waiting.
        self.listener = StreamListener(self._open, self._note, max_pending=None)

    def _open(self) -> DeltaStream:
        self.asked = self._clock()
        return self._open_stream()

    def _note(self, event: ListenerEvent) -> None:
        """Take the time here, on the reading thread, because the main thread may be busy."""
        if isinstance(event, Delta):
            self.received.append((self._clock(), event))
        elif isinstance(event, Ended):
            self._ended.put(event)
