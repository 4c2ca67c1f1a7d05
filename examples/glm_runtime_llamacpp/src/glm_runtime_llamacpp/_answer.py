"""One answer on its way: the worker's end of it, and the reader's."""

from __future__ import annotations

import time
from collections.abc import Iterator
from queue import SimpleQueue

from glm_core import ChatRequest, Delta, Sampling, Usage
from glm_core.records import FinishReason

from ._prompt import Prompt
from ._text import TextStream


class AnswerJob:
    """The worker's end: what is to be answered, and where the answer goes.

    It is apart from `Answer` so that the worker does not hold the reader's end: a reader who simply
    forgets an answer thereby cancels it.

    Attributes:
        request: what is asked.
        prompt: its tokens.
        sampling: the request's, every field but ``max_new_tokens`` set.
        cached_tokens: of the prompt's, those that did not have to be evaluated again.
        cancelled: whether nobody wants the answer any more.
        outbox: what the reader has not read yet; ``None`` only wakes it. Putting something in is safe
            from any thread, also from a finaliser that interrupts another put.
    """

    def __init__(self, request: ChatRequest, prompt: Prompt, sampling: Sampling) -> None:
        self.request, self.prompt, self.sampling = request, prompt, sampling
        self.cached_tokens = 0
        self.cancelled = False
        self.outbox: SimpleQueue[Delta | Exception | None] = SimpleQueue()
        self._text = TextStream(prompt.stop)
        self._count = 0
        self._asked = self._begun = self._first = time.perf_counter()

    def begin(self) -> None:
        """Note that the waiting is over."""
        self._begun = time.perf_counter()

    def tell_position(self, position: int) -> None:
        """Tell the reader its place in the queue, 1 for the next to begin."""
        self.outbox.put(Delta("", queue_position=position))

    def add(self, token: int, piece: bytes) -> bool:
        """Pass on a token; return whether the answer is at its end.

        Args:
            token: its id.
            piece: its bytes, maybe half a character.
        """
        if not self._count:
            self._first = time.perf_counter()
        self._count += 1
        text = self._text.add(piece)
        if self._text.stopped:
            self.finish("stop", text, (token,))
        elif self._count == self.prompt.max_new_tokens:
            self.finish("length", text + self._text.finish(), (token,))
        else:
            self.outbox.put(Delta(text, (token,)))
            return False
        return True

    def finish(self, reason: FinishReason, text: str | None = None, token_ids: tuple[int, ...] = ()) -> None:
        """Send the last delta, with what the answer took.

        Args:
            reason: why it ends.
            text: its last text; ``None`` = what was held back.
            token_ids: of the last token.
        """
        usage = Usage(
            len(self.prompt.token_ids),
            self._count,
            dropped_messages=self.prompt.dropped_messages,
            queue_seconds=self._begun - self._asked,
            time_to_first_token=self._first - self._asked,
            decode_seconds=time.perf_counter() - self._first if self._count else 0.0,
            cached_tokens=self.cached_tokens,
        )
        self.outbox.put(Delta(self._text.finish() if text is None else text, token_ids, reason, usage))

    def fail(self, error: Exception) -> None:
        """Send an error in the place of the rest."""
        self.outbox.put(error)


class Answer(Iterator[Delta]):
    """The reader's end; `close` may come from any thread, as often as anybody likes.

    Not a generator: one that runs in a thread cannot be closed from another.
    """

    def __init__(self, job: AnswerJob) -> None:
        self._job = job
        self._over = False

    def __next__(self) -> Delta:
        """Wait for the next piece and return it; the last one has the reason."""
        if self._over:
            raise StopIteration
        item = self._job.outbox.get()
        # Asked again, because `close` may have come while this thread waited.
        if self._over or item is None:
            raise StopIteration
        if isinstance(item, Exception):
            self._over = True
            raise item
        self._over = item.finish_reason is not None
        return item

    def close(self) -> None:
        """Cancel the answer, and wake whoever reads it; at its end this does nothing."""
        self._over = True
        self._job.cancelled = True
        self._job.outbox.put(None)

    def __del__(self) -> None:
        self.close()
