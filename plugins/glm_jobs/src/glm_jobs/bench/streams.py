"""Several requests at the same time, each read by a thread of its own, with the time of every token."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from glm_core.chat_model import ChatModel
from glm_core.errors import PluginError
from glm_core.records import ChatRequest, Delta, Usage

Clock = Callable[[], float]

POLL_SECONDS = 0.2
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


def timeline_of(asked: float, deltas: Iterable[tuple[float, Delta]]) -> Timeline:
    """Put together what a stream sent, with the time of each delta.

    Raises:
        PluginError: the stream ended without a last delta that has a ``finish_reason``.
    """
    received = list(deltas)
    last = received[-1][1] if received else None
    if last is None or last.finish_reason is None:
        raise PluginError("the answer ended without a finish_reason; report this to the runtime's author")
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
    stop = threading.Event()
    outcomes: queue.SimpleQueue[tuple[int, Timeline | BaseException]] = queue.SimpleQueue()

    def read(index: int, request: ChatRequest) -> None:
        try:
            outcomes.put((index, _read(model, request, stop, clock)))
        except BaseException as error:  # handed to the caller's thread
            outcomes.put((index, error))

    threads = [
        threading.Thread(target=read, args=(index, request), daemon=True, name=f"glm-jobs-{index}")
        for index, request in enumerate(requests)
    ]
    timelines: dict[int, Timeline] = {}
    try:
        for thread in threads:
            thread.start()
        while len(timelines) < len(requests):
            try:
                index, outcome = outcomes.get(timeout=POLL_SECONDS)  # short, so that Ctrl-C is heard anywhere
            except queue.Empty:
                continue
            if isinstance(outcome, BaseException):
                raise outcome
            timelines[index] = outcome
    finally:
        stop.set()
        deadline = time.monotonic() + CANCEL_SECONDS
        for thread in threads:
            if thread.ident is not None:
                thread.join(max(0.0, deadline - time.monotonic()))
    return [timelines[index] for index in range(len(requests))]


def _read(model: ChatModel, request: ChatRequest, stop: threading.Event, clock: Clock) -> Timeline:
    """Read one answer; one that is cancelled ends like an answer without a last delta."""
    asked = clock()
    received: list[tuple[float, Delta]] = []
    with model.stream(request) as deltas:
        for delta in deltas:
            received.append((clock(), delta))
            if stop.is_set():
                break
    return timeline_of(asked, received)
