"""Listening to a model's answer from a thread: the one way for every frontend.

A model's stream blocks: each ``next()`` waits for a token, or in a queue. A frontend has other
things to do meanwhile, such as watching for Ctrl-C, a button or a client that leaves. So a
`StreamListener` reads the stream on a thread of its own and passes on what comes, and the frontend
may cancel it from any other thread. `AnswerProgress` adds up what has come.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from .chat_model import make_unfinished_error
from .cleaning import clean_text
from .records import Delta, DeltaStream, FinishReason, Usage

_log = logging.getLogger("glm")

DEFAULT_MAX_PENDING = 64  # enough that a reader who blinks stops nothing, little enough to need no memory


@dataclass(frozen=True)
class Opened:
    """The first event: the model has accepted the request."""


@dataclass(frozen=True)
class Ended:
    """The last event: the stream is closed and whatever it held in the model is free.

    Attributes:
        error: why the answer failed; ``None`` if it is complete or was cancelled.
    """

    error: BaseException | None = None


ListenerEvent = Opened | Delta | Ended

_opening = threading.local()


def is_cancelled() -> bool:
    """Return whether the answer that this thread opens or reads was cancelled.

    For runtimes: before a stream is there, nobody can close it. One that works long on a request first
    looks here between its steps, and raises whatever it likes: nobody listens.
    """
    listener: StreamListener | None = getattr(_opening, "listener", None)
    return listener is not None and listener._cancelled.is_set()


class StreamListener:
    """Reads one stream on a thread of its own.

    ``emit`` gets `Opened`, then each `Delta`, then one `Ended`; after a cancel only `Ended`, and
    `Opened` is missing where the stream could not be opened. Reading pauses while ``max_pending``
    deltas wait for their `take`, so a slow reader holds up nobody else and takes no memory.

    Args:
        open_stream: opens the stream; called on the thread, since it may take long.
        emit: called on the thread with every event, in order; must not raise. While it blocks, nothing
            more is read.
        max_pending: deltas that may be emitted before `take` was called for the first of them;
            ``None`` = any number.
    """

    def __init__(
        self,
        open_stream: Callable[[], DeltaStream],
        emit: Callable[[ListenerEvent], object],
        *,
        max_pending: int | None = DEFAULT_MAX_PENDING,
    ) -> None:
        self._open_stream = open_stream
        self._emit = emit
        self._room = None if max_pending is None else threading.Semaphore(max_pending)
        self._cancelled = threading.Event()
        self._stream: DeltaStream | None = None
        self._closing = threading.Lock()
        self._thread = threading.Thread(target=self._run, name="glm-listener", daemon=True)

    @property
    def is_running(self) -> bool:
        """Whether the thread is alive; a cancelled one may still wait for the model."""
        return self._thread.is_alive()

    def start(self) -> None:
        """Begin to read.

        Raises:
            RuntimeError: the system gives no more threads; nothing will be emitted.
        """
        self._thread.start()

    def take(self) -> None:
        """Report that a delta was read, which makes room for another."""
        if self._room is not None:
            self._room.release()

    def join(self, seconds: float | None = None) -> None:
        """Wait until the thread has ended, at most ``seconds``."""
        self._thread.join(seconds)

    def cancel(self) -> None:
        """Stop the answer; returns at once, from any thread, and may be called again.

        The stream is closed on a thread of its own, because closing takes as long as the runtime likes.
        That frees the model also while it works on the prompt or the request waits in a queue. A plain
        generator cannot be closed while it runs; the reading thread closes it at its next delta.
        """
        if self._cancelled.is_set() or not self.is_running:
            return
        self._cancelled.set()
        self.take()  # the reader may be waiting for room
        threading.Thread(target=self._close_stream, name="glm-listener-cancel", daemon=True).start()

    def _run(self) -> None:
        error: BaseException | None = None
        _opening.listener = self
        try:
            self._read()
        except BaseException as raised:  # whatever it is, it is the listener's to hear and not this thread's
            # What a stream raises because it was closed under its reader is not a failure of the answer.
            error = None if self._cancelled.is_set() else raised
        self._close_stream()
        self._emit(Ended(error))

    def _read(self) -> None:
        stream = self._open_stream()
        self._stream = stream  # before the look at the flag: who cancels from here on closes it
        if self._cancelled.is_set():
            return
        self._emit(Opened())
        for delta in stream:
            if self._room is not None:
                self._room.acquire()
            if self._cancelled.is_set():
                return
            self._emit(delta)
            if delta.finish_reason is not None:
                return
        if not self._cancelled.is_set():
            raise make_unfinished_error("the answer")

    def _close_stream(self) -> None:
        """Close the stream once, by whichever thread comes first."""
        with self._closing:
            stream = self._stream
            if stream is None:  # not opened yet: the reader sees the flag once it is
                return
            try:
                stream.close()
            except ValueError:  # a generator that runs: its reader closes it at the next delta
                _log.debug("a stream is busy and will be closed after its next delta")
                return
            except BaseException as error:  # a runtime's close may fail in any way; the answer is over
                # Only the type: a message may hold somebody's prompt.
                _log.warning("closing a stream failed: %s", type(error).__name__)
            self._stream = None


class AnswerProgress:
    """An answer as far as it has come.

    Attributes:
        text: what has come so far, without control characters.
        queue_position: how many requests are served before this one begins; 0 once it has begun.
        num_tokens: how many were decoded so far.
        finish_reason: as the model says; ``None`` while it answers, or for ever if it was stopped.
    """

    def __init__(self) -> None:
        self.text = ""
        self.queue_position = 0
        self.num_tokens = 0
        self.finish_reason: FinishReason | None = None
        self._usage: Usage | None = None
        self._started_at = time.monotonic()
        self._first_token_at: float | None = None
        self._last_token_at = 0.0

    def add(self, delta: Delta) -> str:
        """Take in a delta and return its text, cleaned."""
        piece = clean_text(delta.text)
        self.text += piece
        self.queue_position = delta.queue_position
        if delta.token_ids:
            self._last_token_at = time.monotonic()
            self._first_token_at = self._first_token_at or self._last_token_at
            self.num_tokens += len(delta.token_ids)
        if delta.finish_reason is not None:
            self.finish_reason, self._usage = delta.finish_reason, delta.usage
        return piece

    @property
    def elapsed_seconds(self) -> float:
        """Seconds since the request was made."""
        return time.monotonic() - self._started_at

    @property
    def usage(self) -> Usage:
        """What it took, as the model says; before its end, the tokens and seconds until now."""
        if self._usage is not None or self._first_token_at is None:
            return self._usage or Usage()
        return Usage(
            completion_tokens=self.num_tokens,
            time_to_first_token=self._first_token_at - self._started_at,
            decode_seconds=self._last_token_at - self._first_token_at,
        )
