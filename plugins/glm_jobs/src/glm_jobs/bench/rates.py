"""From the times of tokens to speeds."""

from __future__ import annotations

import bisect
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from .streams import Timeline


@dataclass(frozen=True)
class Spread:
    """A number that was measured several times.

    Attributes:
        median: the middle one.
        low: the smallest.
        high: the largest.
        runs: all of them, in order.
    """

    median: float
    low: float
    high: float
    runs: tuple[float, ...]

    @classmethod
    def from_values(cls, values: Iterable[float | None]) -> Spread | None:
        """Return the spread of what could be measured; ``None`` if nothing could."""
        runs = tuple(value for value in values if value is not None)
        return cls(statistics.median(runs), min(runs), max(runs), runs) if runs else None


def compute_decode_rate(timelines: Sequence[Timeline]) -> float | None:
    """Return the tokens a second of all streams together while all of them decode.

    Counted from the moment when the last stream got its first token to the moment when the first
    stream got its last one, so no prefill is inside. A stream whose token falls beside an end of
    that span counts with the share that falls into it.

    Returns:
        ``None`` if there is no such span: an answer of one token, or streams one after another.
    """
    if not timelines:
        return None
    start = max(timeline.first for timeline in timelines)
    end = min(timeline.last for timeline in timelines)
    if end <= start:
        return None
    tokens = sum(count_tokens_at(timeline, end) - count_tokens_at(timeline, start) for timeline in timelines)
    return tokens / (end - start)


def count_head_start(timelines: Sequence[Timeline]) -> float:
    """Return how many tokens an answer had at most when the last of the answers began."""
    start = max(timeline.first for timeline in timelines)
    return max(count_tokens_at(timeline, start) for timeline in timelines)


def count_tokens_at(timeline: Timeline, when: float) -> float:
    """Return how many tokens of an answer had come by a time, between two tokens as a fraction."""
    times = [time for time, _ in timeline.arrivals]
    index = bisect.bisect_right(times, when)
    if index == 0:
        return 0.0
    before, count = timeline.arrivals[index - 1]
    if index == len(times):
        return count
    after, following = timeline.arrivals[index]
    return count + (following - count) * (when - before) / (after - before)


def compute_time_to_first_token(timeline: Timeline) -> float | None:
    """Return the seconds from a request to its first token, as the runtime says or as seen outside."""
    if timeline.usage.time_to_first_token > 0:
        return timeline.usage.time_to_first_token
    return timeline.first - timeline.asked if timeline.arrivals else None


def compute_prefill_rate(timeline: Timeline) -> float | None:
    """Return the prompt tokens a second, waiting left out; for a request that ran alone."""
    first = compute_time_to_first_token(timeline)
    seconds = 0.0 if first is None else first - timeline.usage.queue_seconds
    return timeline.usage.prompt_tokens / seconds if seconds > 0 else None


def compute_total_rate(timelines: Sequence[Timeline]) -> float | None:
    """Return the answer tokens a second from the first request to the last token, all included."""
    seconds = max(timeline.last for timeline in timelines) - min(timeline.asked for timeline in timelines)
    return sum(timeline.num_tokens for timeline in timelines) / seconds if seconds > 0 else None
