"""Reading an answer so that it can be stopped at any moment.

The stream is read on a thread of its own. A Ctrl-C is only noted by the signal handler, and the
main thread, which waits for text no longer than a tick, looks at that note: the exception can
thus never land inside a runtime, nor in the middle of painting the screen. To stop, the main
thread closes the stream, which ends a read that waits for a long prefill or in a queue.
"""

from __future__ import annotations

import contextlib
import queue
import signal
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Literal, Protocol

from glm_core import Delta, PluginError, Usage
from glm_core.records import FinishReason

from ._cleaning import clean

TICK_SECONDS = 0.05


class DeltaStream(Protocol):
    """What ``ChatModel.stream`` returns, and any generator of deltas."""

    def __iter__(self) -> Iterator[Delta]:
        """Deltas, the last of which has a ``finish_reason``."""

    def close(self) -> None:
        """Cancel the answer."""


@dataclass(frozen=True)
class Answer:
    """An answer as far as it got.

    Attributes:
        text: cleaned of control characters.
        ended: why: as the model says, or ``"stopped"`` by the user.
        usage: what it took; of a stopped answer, the tokens and seconds until then.
    """

    text: str
    ended: FinishReason | Literal["stopped"]
    usage: Usage


class AnswerStream:
    """One answer in the making; a context manager that leaves no stream open.

    Attributes:
        queue_position: how many requests are served before this one begins; 0 once it has begun.
        tokens: how many were decoded so far.

    Args:
        start: opens the stream of deltas; called on the reading thread, since it may take long.
    """

    def __init__(self, start: Callable[[], DeltaStream]) -> None:
        self.queue_position = 0
        self.tokens = 0
        self._start = start
        self._stream: DeltaStream | None = None
        self._events: queue.SimpleQueue[Delta | BaseException | None] = queue.SimpleQueue()
        self._cancelled = threading.Event()
        self._thread = threading.Thread(target=self._read, daemon=True, name="glm-answer")
        self._interrupts = 0
        self._previous_handler: Any = None
        self._text: list[str] = []
        self._started_at = 0.0
        self._first_token_at: float | None = None
        self._last_token_at = 0.0
        self._last: Delta | None = None

    def __enter__(self) -> AnswerStream:
        in_main_thread = threading.current_thread() is threading.main_thread()
        # Ctrl-C stays ignored where it is, as in a background job; None would be a handler not set by Python.
        if in_main_thread and signal.getsignal(signal.SIGINT) not in (signal.SIG_IGN, None):
            self._previous_handler = signal.signal(signal.SIGINT, self._note_interrupt)
        self._started_at = time.monotonic()
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for _ in self._until_closed():
            pass
        if self._previous_handler is not None:
            signal.signal(signal.SIGINT, self._previous_handler)

    @property
    def stopping(self) -> bool:
        """Whether Ctrl-C was pressed: no more text comes, but the runtime may not have let go yet."""
        return self._interrupts > 0

    def pieces(self) -> Iterator[str]:
        """The text as it comes; an empty piece at every tick, so that the caller may repaint.

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
            if isinstance(event, BaseException):
                raise event
            if event is None:
                if self._last is None:
                    raise PluginError(
                        "the answer ended without a finish_reason; report this to the runtime's author"
                    )
                return
            yield self._take(event)
        yield from self._until_closed()
        while not self._events.empty():  # what had come before Ctrl-C
            event = self._events.get()
            if isinstance(event, Delta):
                yield self._take(event)

    def answer(self) -> Answer:
        """What has come so far; asked for when `pieces` has ended."""
        text = "".join(self._text)
        if self._last is not None and self._last.finish_reason is not None:
            return Answer(text, self._last.finish_reason, self._last.usage or self._own_usage())
        return Answer(text, "stopped", self._own_usage())

    @property
    def tokens_per_second(self) -> float:
        """Decode speed so far; 0 before the second token."""
        return self._own_usage().tokens_per_second

    def _until_closed(self) -> Iterator[str]:
        self._cancelled.set()
        stream = self._stream
        if stream is not None and self._thread.is_alive():
            # A generator that runs cannot be closed from here; it is closed at its next delta.
            with contextlib.suppress(ValueError):
                stream.close()
        while self._thread.is_alive() and self._interrupts < 2:
            yield ""
            self._thread.join(TICK_SECONDS)

    def _take(self, delta: Delta) -> str:
        piece = clean(delta.text)
        self.queue_position = delta.queue_position
        self._text.append(piece)
        if delta.token_ids:
            self._last_token_at = time.monotonic()
            self._first_token_at = self._first_token_at or self._last_token_at
            self.tokens += len(delta.token_ids)
        if delta.finish_reason is not None:
            self._last = delta
        return piece

    def _own_usage(self) -> Usage:
        if self._first_token_at is None:
            return Usage()
        return Usage(
            completion_tokens=self.tokens,
            time_to_first_token=self._first_token_at - self._started_at,
            decode_seconds=self._last_token_at - self._first_token_at,
        )

    def _note_interrupt(self, signum: int, frame: object) -> None:
        self._interrupts += 1

    def _read(self) -> None:
        try:
            with contextlib.closing(self._start()) as stream:
                self._stream = stream  # before the look at the note: who cancels now closes it
                if not self._cancelled.is_set():
                    for delta in stream:
                        if self._cancelled.is_set():
                            break
                        self._events.put(delta)
        except BaseException as error:  # handed to the thread that shows the answer
            self._events.put(error)
        else:
            self._events.put(None)
