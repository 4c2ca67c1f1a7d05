"""The bridge between the engine's thread, which makes deltas, and the caller's, which reads them."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator

from glm_core import Delta


class Outbox:
    """What the engine has made of one answer and the caller has not read yet; safe between threads."""

    def __init__(self) -> None:
        self._deltas: deque[Delta] = deque()
        self._error: BaseException | None = None
        self._ended = False
        self._changed = threading.Condition()

    def put(self, delta: Delta) -> None:
        """Add a delta; one with a ``finish_reason`` is the last."""
        with self._changed:
            if not self._ended:
                self._deltas.append(delta)
                self._ended = delta.finish_reason is not None
                self._changed.notify_all()

    def fail(self, error: BaseException) -> None:
        """End the answer with an error, which is raised once everything before it was read."""
        with self._changed:
            if not self._ended:
                self._error = error
                self._ended = True
                self._changed.notify_all()

    def cancel(self) -> None:
        """End the answer at once; what was not read is dropped, and a waiting reader is woken."""
        with self._changed:
            self._deltas.clear()
            self._error = None
            self._ended = True
            self._changed.notify_all()

    def take(self) -> Delta:
        """Return the next delta, as soon as there is one.

        Raises:
            StopIteration: the answer has ended or was cancelled.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._deltas or self._ended)
            if self._deltas:
                return self._deltas.popleft()
            if self._error is not None:
                error, self._error = self._error, None
                raise error
            raise StopIteration


class RequestStream(Iterator[Delta]):
    """An answer as it comes. Closing it, from any thread, or dropping it cancels the request.

    Args:
        outbox: where the engine puts the answer.
        cancel: tells the engine to stop working on it.
    """

    def __init__(self, outbox: Outbox, cancel: Callable[[], None]) -> None:
        self._outbox = outbox
        self._cancel = cancel

    def __next__(self) -> Delta:
        return self._outbox.take()

    def close(self) -> None:
        """Cancel; at the answer's end, or a second time, this does nothing."""
        self._outbox.cancel()
        self._cancel()

    def __del__(self) -> None:
        self.close()
