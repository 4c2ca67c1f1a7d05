"""The answers to one HTTP request, joined into one stream of events on the event loop.

A model's stream blocks, so each answer is read on a thread of its own (`glm_core.listening`), which
hands its events to the event loop and pauses while the client is behind. Cancelling closes the stream
from another thread: the one that reads it may be waiting for a token.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
from collections import deque
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from types import TracebackType

from glm_core import AdapterError, ChatRequest, Delta, Usage
from glm_core.listening import Ended, ListenerEvent, Opened, StreamListener

from .errors import build_stopping_error, build_time_limit_error
from .service import Service


@dataclass(frozen=True)
class Piece:
    """A delta, and the number of the answer that it belongs to."""

    index: int
    delta: Delta


class Generation:
    """Runs some requests to the model; an asynchronous context manager that starts and cancels them.

    Args:
        service: model, limits and metrics.
        requests: one for each answer.

    Attributes:
        usages: what the finished answers took, by index.
    """

    def __init__(self, service: Service, requests: Sequence[ChatRequest]) -> None:
        self._service = service
        self._requests = requests
        self._loop = asyncio.get_running_loop()
        self._events: asyncio.Queue[tuple[int, ListenerEvent]] = asyncio.Queue()
        self._early: deque[Piece] = deque()
        self._listeners: list[StreamListener] = []
        self._deadline = self._loop.time() + service.config.time_limit
        self.usages: dict[int, Usage] = {}

    async def __aenter__(self) -> Generation:
        service = self._service
        listeners = [
            StreamListener(
                functools.partial(service.model.stream, request),
                functools.partial(self._emit, index),
                max_pending=service.config.buffered_deltas,
            )
            for index, request in enumerate(self._requests)
        ]
        service.answers.take(len(listeners))
        service.generations.add(self)
        try:
            for listener in listeners:
                listener.start()
                self._listeners.append(listener)
        except RuntimeError:  # the system gives no more threads: cancel those that run
            for _ in listeners[len(self._listeners) :]:
                service.answers.give_back()
            self.close()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Cancel what still runs; calling it again does nothing."""
        self._service.generations.discard(self)
        for listener in self._listeners:
            listener.cancel()

    def abort(self) -> None:
        """End with the error that the server is stopping."""
        self._receive(0, Ended(build_stopping_error()))

    async def begin(self, seconds: float) -> None:
        """Wait until every answer is accepted and the first piece is there, but not for ever.

        What goes wrong until then can still be reported by a status.

        Args:
            seconds: after which the wait ends in any case.

        Raises:
            GlmError: the model refuses.
        """
        opened = 0
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while opened < len(self._listeners) or not self._early:
                    index, event = await self._next_event()
                    if isinstance(event, Delta):
                        self._early.append(Piece(index, event))
                    elif isinstance(event, Opened):
                        opened += 1

    async def iterate_pieces(self, silence: float | None = None) -> AsyncIterator[Piece | None]:
        """Yield the pieces of all answers as they come, until each has finished.

        Args:
            silence: seconds without a piece after which ``None`` is yielded.

        Raises:
            ApiError: the time limit of the request is reached, or the server stops.
            GlmError: the model failed.
        """
        unfinished = len(self._listeners)
        while unfinished:
            piece = self._early.popleft() if self._early else await self._next_piece(silence)
            if piece is not None:
                self._listeners[piece.index].take()
                unfinished -= self._count_if_last(piece)
            yield piece

    def _count_if_last(self, piece: Piece) -> bool:
        """Count the answer that a piece completes, if it does; return whether it does."""
        delta = piece.delta
        if delta.finish_reason is None:
            return False
        usage = delta.usage or Usage()
        self.usages[piece.index] = usage
        self._service.metrics.count_answer(usage, self._requests[piece.index].adapter)
        return True

    async def _next_piece(self, silence: float | None) -> Piece | None:
        left = self._deadline - self._loop.time()
        limited = silence is None or left <= silence
        try:
            async with asyncio.timeout(left if limited else silence):
                while True:
                    index, event = await self._next_event()
                    if isinstance(event, Delta):
                        return Piece(index, event)
        except TimeoutError:
            if limited:
                raise build_time_limit_error(self._service.config.time_limit) from None
            return None

    async def _next_event(self) -> tuple[int, ListenerEvent]:
        index, event = await self._events.get()
        if isinstance(event, Ended) and event.error is not None:
            raise self._translate_error(event.error, self._requests[index].adapter)
        return index, event

    def _translate_error(self, error: BaseException, adapter: str | None) -> BaseException:
        """Return the error for the client: an adapter that was removed just now counts as unknown."""
        service = self._service
        is_gone = adapter is not None and adapter not in service.model.info.adapters
        if isinstance(error, AdapterError) and adapter is not None and is_gone:
            return service.build_not_found_error(service.join_name(adapter))
        return error

    def _emit(self, index: int, event: ListenerEvent) -> None:
        """Hand an event to the event loop; called on the answer's thread."""
        if isinstance(event, Ended):
            self._service.answers.give_back()
        with contextlib.suppress(RuntimeError):  # the event loop is closed, and nobody waits any more
            self._loop.call_soon_threadsafe(self._receive, index, event)

    def _receive(self, index: int, event: ListenerEvent) -> None:
        if isinstance(event, Delta) and event.token_ids:
            self._service.token_signal.announce()
        self._events.put_nowait((index, event))
