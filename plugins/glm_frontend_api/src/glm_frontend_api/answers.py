"""One answer on a thread of its own: a model's blocking stream, turned into events.

The thread is in the model's ``next()`` most of the time. It sends every delta on at once and waits
only where the reader is behind by more than a fixed number of them, so a slow reader holds up
nobody else and takes no memory.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass

from glm_core import ChatModel, ChatRequest, Delta, PluginError

logger = logging.getLogger("glm.api")


@dataclass(frozen=True)
class Opened:
    """The model has accepted the request."""

    index: int


@dataclass(frozen=True)
class Piece:
    """A delta of the answer."""

    index: int
    delta: Delta


@dataclass(frozen=True)
class Failed:
    """The answer ended with an error."""

    index: int
    error: BaseException


Event = Opened | Piece | Failed


class Answer:
    """An answer that is being generated.

    Args:
        model: what answers.
        request: what to answer.
        index: which of the answers to one HTTP request this is.
        emit: called on the answer's thread with every event; must not block.
        buffered: pieces that may be emitted before `take` was called for the first of them.
        ended: called once, on the answer's thread, when that is about to end.
    """

    def __init__(
        self,
        model: ChatModel,
        request: ChatRequest,
        index: int,
        emit: Callable[[Event], None],
        *,
        buffered: int,
        ended: Callable[[], None],
    ) -> None:
        self._model = model
        self._request = request
        self._index = index
        self._emit = emit
        self._ended = ended
        self._room = threading.Semaphore(buffered)
        self._stop = threading.Event()
        self._close: Callable[[], None] | None = None
        self._thread = threading.Thread(target=self._run, name="glm-api-answer", daemon=True)

    @property
    def running(self) -> bool:
        """Whether the thread is alive; a cancelled one may still wait for the model."""
        return self._thread.is_alive()

    def start(self) -> None:
        """Begin to generate.

        Raises:
            RuntimeError: no thread can be had; ``ended`` will not be called.
        """
        self._thread.start()

    def take(self) -> None:
        """Say that a piece was read, which makes room for another."""
        self._room.release()

    def cancel(self) -> None:
        """Stop generating and free the model's slot; returns at once, from any thread.

        The stream is closed from a thread of its own, which frees the slot while the model is
        busy with the prompt or the request is in the queue. Where a runtime's stream cannot be
        closed while it runs, the answer's own thread closes it before the next token.
        """
        if self._stop.is_set() or not self.running:
            return
        self._stop.set()
        self._room.release()
        threading.Thread(target=self._close_stream, name="glm-api-cancel", daemon=True).start()

    def _run(self) -> None:
        try:
            self._pump()
        except BaseException as error:  # whatever it is, it is the client's to hear and not this thread's
            if not self._stop.is_set():
                self._emit(Failed(self._index, error))
        finally:
            self._close_stream()
            self._ended()

    def _pump(self) -> None:
        stream = self._model.stream(self._request)
        self._close = stream.close
        if self._stop.is_set():
            return
        self._emit(Opened(self._index))
        for delta in stream:
            self._room.acquire()
            if self._stop.is_set():
                return
            self._emit(Piece(self._index, delta))
            if delta.finish_reason is not None:
                return
        if not self._stop.is_set():
            raise PluginError("the answer ended without a finish_reason; report this to the runtime's author")

    def _close_stream(self) -> None:
        if self._close is None:  # not opened yet: the thread sees that it was stopped once it is
            return
        try:
            self._close()
        except ValueError:  # a plain generator that is running; its own thread closes it
            logger.debug("a stream is busy and will be closed after its next token")
        except Exception as error:  # a runtime's close may fail in any way; the answer is over all the same
            logger.warning("closing a stream failed: %s", type(error).__name__)
