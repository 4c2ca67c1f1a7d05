"""Whether tokens really flow: ``/ready`` makes the model generate one."""

from __future__ import annotations

import asyncio
import contextlib

from glm_core import BusyError, ChatRequest, Delta, GlmError, Message, Sampling
from glm_core.listening import Ended, ListenerEvent, StreamListener

from .service import Service

_QUESTION = ChatRequest((Message("user", "hi"),), Sampling(max_new_tokens=1, do_sample=False))


class Readiness:
    """Probes a model; callers at the same time share one probe.

    Args:
        service: the model, and the signal of tokens that it makes for others.
    """

    def __init__(self, service: Service) -> None:
        self._service = service
        self._probe: asyncio.Task[str | None] | None = None
        self._listener: StreamListener | None = None

    async def find_obstacle(self) -> str | None:
        """Return why the model is not ready; ``None`` if it is.

        It is ready if a token of anybody's answer comes within the time limit, so that a model
        with a long queue counts as ready while it moves.
        """
        if self._service.draining:
            return "the server is stopping"
        if self._probe is None or self._probe.done():
            self._probe = asyncio.create_task(self._probe_model())
        return await asyncio.shield(self._probe)

    async def _probe_model(self) -> str | None:
        own: asyncio.Future[str | None] = asyncio.get_running_loop().create_future()
        others = asyncio.create_task(self._service.token_signal.wait())
        # While the last probe still hangs, no second one is started.
        if self._listener is None or not self._listener.is_running:
            self._start(own)
        seconds = self._service.config.ready_seconds
        try:
            await asyncio.wait((own, others), timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        finally:
            others.cancel()
            if self._listener is not None:
                self._listener.cancel()
        if own.done():
            return own.result()
        return None if others.done() else f"no token came within {seconds:g} seconds"

    def _start(self, own: asyncio.Future[str | None]) -> None:
        loop = asyncio.get_running_loop()

        def finish(event: ListenerEvent) -> None:
            if own.done():
                return
            match event:
                case Delta() if event.token_ids or event.finish_reason is not None:
                    own.set_result(None)
                # None: cancelled. Busy: the queue is full, and the token signal tells whether it moves.
                case Ended(error=None) | Ended(error=BusyError()):
                    pass
                case Ended(error=error):
                    reason = str(error) if isinstance(error, GlmError) else type(error).__name__
                    own.set_result(f"the model cannot answer: {reason}")

        def emit(event: ListenerEvent) -> None:
            with contextlib.suppress(RuntimeError):  # the event loop is closed, and nobody waits any more
                loop.call_soon_threadsafe(finish, event)

        self._listener = StreamListener(lambda: self._service.model.stream(_QUESTION), emit, max_pending=None)
        self._listener.start()
