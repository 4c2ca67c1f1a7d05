"""What the page is doing, so that it can finish that before it stops."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager


class PageWork:
    """Counts what runs: answers on the page, and requests to the API beside it.

    Attributes:
        is_draining: whether nothing new is taken, because the server is going to stop.
    """

    def __init__(self) -> None:
        self.is_draining = False
        self._count = 0
        # The signal handler, the event loop and a test's thread all look at the number.
        self._lock = threading.Lock()
        self._close_windows: Callable[[], object] = lambda: None
        self._close_queue: Callable[[], object] = lambda: None

    def set_closers(self, close_windows: Callable[[], object], close_queue: Callable[[], object]) -> None:
        """Say how the connections of windows, and running answers, are ended; both from any thread."""
        self._close_windows, self._close_queue = close_windows, close_queue

    @contextmanager
    def count(self) -> Iterator[None]:
        """Count one thing that runs, for the length of a ``with`` block."""
        with self._lock:
            self._count += 1
        try:
            yield
        finally:
            with self._lock:
                self._count -= 1

    def begin_draining(self) -> None:
        """Take nothing new, and close what has no end of its own."""
        self.is_draining = True
        self._close_windows()

    def is_idle(self) -> bool:
        """Return whether nothing runs any more."""
        return not self._count

    def abort(self) -> None:
        """End what still runs."""
        self._close_queue()
