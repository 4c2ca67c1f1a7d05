"""Reading one answer on a thread of its own, so that a page can stop it, or go away, at any moment."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import AsyncGenerator, Callable, Iterator
from typing import Protocol

from glm_core import Delta, PluginError, Usage

from ._cleaning import clean

REPAINT_SECONDS = 0.05
SIGN_SECONDS = 0.5


class DeltaStream(Protocol):
    """What ``ChatModel.stream`` returns, and any generator of deltas."""

    def __iter__(self) -> Iterator[Delta]:
        """Deltas, the last of which has a ``finish_reason``."""

    def close(self) -> None:
        """Cancel the answer."""


class Answer:
    """An answer in the making.

    Attributes:
        text: what has come so far, cleaned of control characters.
        queue_position: how many requests are served first; 0 once the answer has begun.
        finish_reason: as the model says; ``None`` while it is answering, or for ever if it was stopped.
        usage: what it took; of a stopped answer, the tokens and seconds until then.
    """

    def __init__(self, start: Callable[[], DeltaStream]) -> None:
        """Take ``start``, which opens the stream; the reading thread calls it, since it may take long."""
        self.text = ""
        self.queue_position = 0
        self.finish_reason: str | None = None
        self._start = start
        self._usage: Usage | None = None
        self._tokens = 0
        self._first_token_at = 0.0
        self._last_token_at = 0.0
        self._stopped = threading.Event()
        self._stream: DeltaStream | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._events: asyncio.Queue[Delta | BaseException | None] = asyncio.Queue()

    @property
    def was_stopped(self) -> bool:
        """Whether `stop` ended it."""
        return self._stopped.is_set() and self.finish_reason is None

    @property
    def usage(self) -> Usage:
        """What it took so far."""
        seconds = self._last_token_at - self._first_token_at
        return self._usage or Usage(completion_tokens=self._tokens, decode_seconds=seconds)

    def stop(self) -> None:
        """End it: no more text is taken, and the stream is closed, also while the runtime is silent."""
        self._stopped.set()
        self._put(None)
        threading.Thread(target=self._close, daemon=True, name="glm-answer-close").start()

    async def grow(self) -> AsyncGenerator[None]:
        """Read to the end, pausing whenever there is something new to show, and now and then without.

        (gradio notices that a visitor has left only at such a pause.)

        The stream is closed when this ends, by itself, by `stop`, or because the page went away.

        Raises:
            GlmError: as the runtime raised it.
            PluginError: the stream ended without a last delta.
        """
        self._loop = asyncio.get_running_loop()
        reader = threading.Thread(target=self._read, daemon=True, name="glm-answer")
        reader.start()
        try:
            while not self._stopped.is_set():
                if not await self._take_all():
                    return
                yield
                await asyncio.sleep(REPAINT_SECONDS)
        finally:
            if reader.is_alive():
                self.stop()

    async def _take_all(self) -> bool:
        """Take what has come, waiting a little for the first piece; ``False`` after the last."""
        try:
            event = await asyncio.wait_for(self._events.get(), SIGN_SECONDS)
        except TimeoutError:
            return True
        while True:
            if isinstance(event, BaseException):
                raise event
            if event is None:
                if self.finish_reason is None and not self._stopped.is_set():
                    raise PluginError(
                        "the answer ended without a finish_reason; report this to the runtime's author"
                    )
                return False
            self._take(event)
            try:
                event = self._events.get_nowait()
            except asyncio.QueueEmpty:
                return True

    def _take(self, delta: Delta) -> None:
        self.text += clean(delta.text)
        self.queue_position = delta.queue_position
        if delta.token_ids:
            self._last_token_at = time.monotonic()
            self._first_token_at = self._first_token_at or self._last_token_at
            self._tokens += len(delta.token_ids)
        if delta.finish_reason is not None:
            self.finish_reason, self._usage = delta.finish_reason, delta.usage

    def _read(self) -> None:
        try:
            with contextlib.closing(self._start()) as stream:
                self._stream = stream  # before the look at the note: who stops now closes it
                if self._stopped.is_set():
                    return
                for delta in stream:
                    if self._stopped.is_set():
                        break
                    self._put(delta)
        except BaseException as error:  # handed to the page
            self._put(error)
        else:
            self._put(None)

    def _close(self) -> None:
        """Runs on a thread of its own, since closing may take as long as the runtime likes."""
        if self._stream is not None:
            with contextlib.suppress(Exception):  # a plain generator that runs; its reader closes it later
                self._stream.close()

    def _put(self, event: Delta | BaseException | None) -> None:
        if self._loop is not None:
            with contextlib.suppress(RuntimeError):  # the server has gone: nobody reads any more
                self._loop.call_soon_threadsafe(self._events.put_nowait, event)
