"""Reading one answer beside a page that can stop it, or go away, at any moment."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncGenerator, Callable

from glm_core import Delta
from glm_core.listening import AnswerProgress, Ended, ListenerEvent, Opened, StreamListener
from glm_core.records import DeltaStream

REPAINT_SECONDS = 0.05
# gradio notices that a visitor has left only when the page is updated.
UPDATE_SECONDS = 0.5


class PageAnswer:
    """An answer that is being read.

    Attributes:
        progress: the answer as far as it has come.

    Args:
        open_stream: opens the stream; called on the reading thread, since it may take long.
    """

    def __init__(self, open_stream: Callable[[], DeltaStream]) -> None:
        self.progress = AnswerProgress()
        self._listener = StreamListener(open_stream, self._emit)
        self._is_stopped = False
        self._loop: asyncio.AbstractEventLoop | None = None
        self._events: asyncio.Queue[ListenerEvent] = asyncio.Queue()

    @property
    def was_stopped(self) -> bool:
        """Whether `stop` ended it."""
        return self._is_stopped and self.progress.finish_reason is None

    def stop(self) -> None:
        """End it at once: take no more text, and close the stream, also while the runtime is silent."""
        self._is_stopped = True
        self._listener.cancel()
        self._emit(Ended())  # the page does not wait until the runtime has let go

    async def updates(self) -> AsyncGenerator[None]:
        """Read to the end, pausing whenever there is something new to show, and now and then without.

        The stream is closed when this ends, by itself, by `stop`, or because the page went away.

        Raises:
            GlmError: as the runtime raised it.
            PluginError: the stream ended without a last delta.
        """
        self._loop = asyncio.get_running_loop()
        self._listener.start()
        try:
            while not self._is_stopped and await self._take_all():
                began = time.monotonic()
                yield
                # The longer an answer, the longer it takes to show: at most a fifth of the time goes there.
                await asyncio.sleep(max(REPAINT_SECONDS, 4 * (time.monotonic() - began)))
        finally:
            self._listener.cancel()

    async def _take_all(self) -> bool:
        """Take what has come, waiting a little for the first piece; return ``False`` after the last."""
        try:
            event = await asyncio.wait_for(self._events.get(), UPDATE_SECONDS)
        except TimeoutError:
            return True
        while True:
            if isinstance(event, Ended):
                if event.error is not None:
                    raise event.error
                return False
            if isinstance(event, Delta):
                self._listener.take()
                self.progress.add(event)
            try:
                event = self._events.get_nowait()
            except asyncio.QueueEmpty:
                return True

    def _emit(self, event: ListenerEvent) -> None:
        if self._loop is not None and not isinstance(event, Opened):  # which shows nothing new
            with contextlib.suppress(RuntimeError):  # the server has gone: nobody reads any more
                self._loop.call_soon_threadsafe(self._events.put_nowait, event)
