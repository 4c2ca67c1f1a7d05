"""Processor time of an action, on machines that do other things beside the tests.

Only the calling thread is counted, and the shortest of several tries is taken: whatever else happens on a
machine (caches that others fill, garbage of earlier tests) makes a try longer and never shorter. Tests give
it room of a factor, so that they tell a wrong order of growth and nothing else.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable

TRIES = 5


def measure_seconds(action: Callable[[], object], *, enough: float = 0.0) -> float:
    """Return the processor seconds of an action: the least of `TRIES`, or the first below ``enough``."""
    least = float("inf")
    gc.disable()  # what earlier tests left is not this action's
    try:
        for _ in range(TRIES):
            began = time.thread_time()
            action()
            least = min(least, time.thread_time() - began)
            if least < enough:
                break
    finally:
        gc.enable()
    return least


def assert_in_proportion(
    short: Callable[[], object], long: Callable[[], object], *, factor: float, least: float
) -> None:
    """Check that a long action takes no more than so many times a short one.

    Args:
        short: the action at one length.
        long: at another.
        factor: between the two, with room.
        least: seconds below which the short one is not measured reliably.

    Raises:
        AssertionError: it does.
    """
    limit = factor * max(measure_seconds(short, enough=least), least)
    seconds = measure_seconds(long, enough=limit)
    assert seconds < limit, f"{seconds:.2f} seconds, at most {limit:.2f} are expected"
