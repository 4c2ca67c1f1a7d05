"""How long a test waits for what should happen at once, and how.

Continuous integration and a developer's machine run other things beside the tests, so a step that takes a
millisecond may take a minute. A test therefore never sleeps for a fixed time and hopes: it waits for the
very event, and only a fault makes it wait as long as `PATIENCE_SECONDS`.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

PATIENCE_SECONDS = 240.0
"""Seconds after which something counts as never happening; below pytest's own limit for one test."""


def wait_until(condition: Callable[[], object], *, seconds: float = PATIENCE_SECONDS) -> None:
    """Return as soon as a condition is true.

    Args:
        condition: asked again and again, from the calling thread.
        seconds: how long to ask.

    Raises:
        AssertionError: if it never becomes true.
    """
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"what was waited for did not happen within {seconds:g} seconds"
        time.sleep(0.002)


def join(*threads: threading.Thread) -> None:
    """Wait until threads have ended.

    Raises:
        AssertionError: if one never ends.
    """
    end = time.monotonic() + PATIENCE_SECONDS
    for thread in threads:
        thread.join(max(end - time.monotonic(), 0))
    running = [thread.name for thread in threads if thread.is_alive()]
    assert not running, f"still running after {PATIENCE_SECONDS:g} seconds: {running}"
