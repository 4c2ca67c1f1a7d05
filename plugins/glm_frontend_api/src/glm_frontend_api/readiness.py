"""Whether tokens really flow: ``/ready`` makes the model generate one."""

from __future__ import annotations

import asyncio

from glm_core import BusyError, ChatRequest, GlmError, Message, Sampling

from .answers import Answer, Event, Failed, Piece
from .service import Service

_QUESTION = ChatRequest((Message("user", "hi"),), Sampling(max_new_tokens=1, do_sample=False))


class Readiness:
    """Probes a model; callers at the same time share one probe.

    Args:
        service: the model, and the pulse of what it does for others.
    """

    def __init__(self, service: Service) -> None:
        self._service = service
        self._probe: asyncio.Task[str | None] | None = None
        self._answer: Answer | None = None

    async def reason_against(self) -> str | None:
        """Why the model is not ready; ``None`` if it is.

        It is ready if a token of anybody's answer comes within the time limit, so that a model
        with a long queue counts as ready while it moves.
        """
        if self._service.draining:
            return "the server is stopping"
        if self._probe is None or self._probe.done():
            self._probe = asyncio.create_task(self._look())
        return await asyncio.shield(self._probe)

    async def _look(self) -> str | None:
        own: asyncio.Future[str | None] = asyncio.get_running_loop().create_future()
        others = asyncio.create_task(self._service.pulse.wait())
        if self._answer is None or not self._answer.running:  # else the last probe still hangs: no second one
            self._start(own)
        seconds = self._service.config.ready_seconds
        try:
            await asyncio.wait((own, others), timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        finally:
            others.cancel()
            if self._answer is not None:
                self._answer.cancel()
        if own.done():
            return own.result()
        return None if others.done() else f"no token came within {seconds:g} seconds"

    def _start(self, own: asyncio.Future[str | None]) -> None:
        loop = asyncio.get_running_loop()

        def settle(event: Event) -> None:
            if own.done():
                return
            match event:
                case Piece(delta=delta) if delta.token_ids or delta.finish_reason is not None:
                    own.set_result(None)
                case Failed(error=BusyError()):  # the queue is full: whether it moves, the pulse tells
                    pass
                case Failed(error=error):
                    told = str(error) if isinstance(error, GlmError) else type(error).__name__
                    own.set_result(f"the model cannot answer: {told}")

        def emit(event: Event) -> None:
            if not loop.is_closed():
                loop.call_soon_threadsafe(settle, event)

        self._answer = Answer(self._service.model, _QUESTION, 0, emit, buffered=64, ended=lambda: None)
        self._answer.start()
