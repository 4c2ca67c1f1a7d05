"""The answers to one HTTP request, joined into one stream of events on the event loop."""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import AsyncIterator, Sequence
from types import TracebackType
from typing import TYPE_CHECKING

from glm_core import AdapterError, ChatRequest, Usage

from .answers import Answer, Event, Failed, Opened, Piece
from .errors import stopping, time_limit_reached

if TYPE_CHECKING:
    from .service import Service


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
        self._events: asyncio.Queue[Event] = asyncio.Queue()
        self._early: deque[Piece] = deque()
        self._answers: list[Answer] = []
        self._deadline = self._loop.time() + service.config.time_limit
        self.usages: dict[int, Usage] = {}

    async def __aenter__(self) -> Generation:
        service = self._service
        answers = [
            Answer(
                service.model,
                request,
                index,
                self._emit,
                buffered=service.config.buffered_deltas,
                ended=service.answers.give_back,
            )
            for index, request in enumerate(self._requests)
        ]
        service.answers.take(len(answers))
        service.generations.add(self)
        try:
            for answer in answers:
                answer.start()
                self._answers.append(answer)
        except RuntimeError:  # no thread to be had: cancel those that run
            for _ in answers[len(self._answers) :]:
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
        for answer in self._answers:
            answer.cancel()

    def abort(self) -> None:
        """End with the error that the server is stopping."""
        self._arrived(Failed(0, stopping()))

    async def begin(self, seconds: float) -> None:
        """Wait until every answer is accepted and the first piece is there, but not for ever.

        What goes wrong until then can still be told by a status.

        Args:
            seconds: after which the wait ends in any case.

        Raises:
            GlmError: the model refuses.
        """
        opened = 0
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while opened < len(self._answers) or not self._early:
                    event = await self._next_event()
                    if isinstance(event, Piece):
                        self._early.append(event)
                    else:
                        opened += 1

    async def pieces(self, silence: float | None = None) -> AsyncIterator[Piece | None]:
        """The pieces of all answers as they come, until each has finished.

        Args:
            silence: seconds without a piece after which ``None`` is yielded.

        Raises:
            ApiError: the time limit of the request is reached, or the server stops.
            GlmError: the model failed.
        """
        unfinished = len(self._answers)
        while unfinished:
            piece = self._early.popleft() if self._early else await self._next_piece(silence)
            if piece is not None:
                self._answers[piece.index].take()
                unfinished -= self._finishes(piece)
            yield piece

    def _finishes(self, piece: Piece) -> bool:
        delta = piece.delta
        if delta.finish_reason is None:
            return False
        usage = delta.usage or Usage()
        self.usages[piece.index] = usage
        self._service.metrics.answered(usage, self._requests[piece.index].adapter)
        return True

    async def _next_piece(self, silence: float | None) -> Piece | None:
        left = self._deadline - self._loop.time()
        limited = silence is None or left <= silence
        try:
            async with asyncio.timeout(left if limited else silence):
                while True:
                    event = await self._next_event()
                    if isinstance(event, Piece):
                        return event
        except TimeoutError:
            if limited:
                raise time_limit_reached(self._service.config.time_limit) from None
            return None

    async def _next_event(self) -> Opened | Piece:
        event = await self._events.get()
        if isinstance(event, Failed):
            raise self._as_told(event)
        return event

    def _as_told(self, failed: Failed) -> BaseException:
        """The error to tell; an adapter that was removed just now is one that there never was."""
        service, adapter = self._service, self._requests[failed.index].adapter
        if (
            isinstance(failed.error, AdapterError)
            and adapter is not None
            and adapter not in service.model.info.adapters
        ):
            return service.no_such_model(service.full_name(adapter))
        return failed.error

    def _emit(self, event: Event) -> None:
        with contextlib.suppress(RuntimeError):  # the event loop is closed, and nobody waits any more
            self._loop.call_soon_threadsafe(self._arrived, event)

    def _arrived(self, event: Event) -> None:
        if isinstance(event, Piece) and event.delta.token_ids:
            self._service.pulse.beat()
        self._events.put_nowait(event)


class Pulse:
    """Tells who waits that a token has come."""

    def __init__(self) -> None:
        self._event = asyncio.Event()

    def beat(self) -> None:
        """A token has come."""
        self._event.set()
        self._event = asyncio.Event()

    async def wait(self) -> None:
        """Until the next token."""
        await self._event.wait()
