"""Reading an answer so that Ctrl-C can stop it at any moment.

The stream is read on a thread of its own (`glm_core.listening`). The signal handler only takes note
of a Ctrl-C, and the main thread, which waits for text no longer than a tick, looks at that note: the
exception can thus never land inside a runtime, nor in the middle of painting the screen.
"""

from __future__ import annotations

import queue
import signal
import threading
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Any

from glm_core import Delta
from glm_core.listening import AnswerProgress, Ended, ListenerEvent, StreamListener
from glm_core.records import DeltaStream

TICK_SECONDS = 0.05


class AnswerReader:
    """Reads one answer; a context manager that leaves no stream open.

    Attributes:
        progress: the answer as far as it has come; a stopped one has no ``finish_reason``.

    Args:
        open_stream: opens the stream of deltas; called on the reading thread, since it may take long.
    """

    def __init__(self, open_stream: Callable[[], DeltaStream]) -> None:
        self.progress = AnswerProgress()
        self._events: queue.SimpleQueue[ListenerEvent] = queue.SimpleQueue()
        self._listener = StreamListener(open_stream, self._events.put)
        self._interrupts = 0
        self._previous_handler: Any = None

    def __enter__(self) -> AnswerReader:
        in_main_thread = threading.current_thread() is threading.main_thread()
        # Ctrl-C stays ignored where it is, as in a background job; None would be a handler not set by Python.
        if in_main_thread and signal.getsignal(signal.SIGINT) not in (signal.SIG_IGN, None):
            self._previous_handler = signal.signal(signal.SIGINT, self._count_interrupt)
        self._listener.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for _ in self._wait_for_end():
            pass
        if self._previous_handler is not None:
            signal.signal(signal.SIGINT, self._previous_handler)

    @property
    def is_stopping(self) -> bool:
        """Whether Ctrl-C was pressed: no more text comes, but the runtime may not have let go yet."""
        return self._interrupts > 0

    def read_pieces(self) -> Iterator[str]:
        """Yield the text as it comes; an empty piece at every tick, so that the caller may repaint.

        Ends with the answer; or after Ctrl-C once the stream is closed, which a runtime that can only
        be cancelled between two deltas may put off. Another Ctrl-C does not wait for that.

        Raises:
            GlmError: as the runtime raised it.
            PluginError: the stream ended without a last delta.
        """
        while not self._interrupts:
            try:
                event = self._events.get(timeout=TICK_SECONDS)
            except queue.Empty:
                yield ""
                continue
            if isinstance(event, Ended):
                if event.error is not None:
                    raise event.error
                return
            if isinstance(event, Delta):
                self._listener.take()
                yield self.progress.add(event)
        yield from self._wait_for_end()
        while not self._events.empty():  # what had come before Ctrl-C
            event = self._events.get()
            if isinstance(event, Delta):
                yield self.progress.add(event)

    def _wait_for_end(self) -> Iterator[str]:
        self._listener.cancel()
        while self._listener.is_running and self._interrupts < 2:
            yield ""
            self._listener.join(TICK_SECONDS)

    def _count_interrupt(self, signum: int, frame: object) -> None:
        self._interrupts += 1
