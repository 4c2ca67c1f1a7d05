"""The scheduler: which requests run, in what order, and how the time is shared between them.

Requests wait in a bounded queue, take a slot of the KV cache when one is free, are prefilled in
short steps, and then join the decode batch; they leave it when they end, are cancelled or fail.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Generator, Sequence as SequenceOf
from dataclasses import dataclass, field

from torch import Tensor

from glm_core import BusyError, ClosedError, Delta, ModelLoad

from ..network.kv_cache import KVCache
from .candidates import select_candidates
from .failures import explain_failure
from .prefix_cache import PrefixCache
from .request_stream import Outbox
from .runner import Runner
from .sampling import Candidates
from .sequence import Sequence
from .slots import SlotAllocator

# A prompt cannot simply be cut by tokens, so its work is cut by time. While answers run, prefill takes this
# many times the duration of a decode step between two of them: a long prompt slows them and never stops them.
PREFILL_SHARE = 2.0
# Without running answers there is only a cancellation to look out for.
PREFILL_SLICE_SECONDS = 0.05


@dataclass(eq=False)
class EngineJob:
    """One request on its way through the engine.

    Attributes:
        sequence: what is computed.
        outbox: where its caller reads.
        is_cancelled: whether nobody wants it any more; a running one leaves at the next step.
        position: in the queue, as the caller was told; 0 = it does not wait.
        slot: of the KV cache; -1 = none.
        prefill: its prompt being taken in; returns what its first token is chosen from.
    """

    sequence: Sequence
    outbox: Outbox = field(default_factory=Outbox)
    is_cancelled: bool = False
    position: int = 0
    slot: int = -1
    prefill: Generator[None, None, Tensor | Candidates] | None = None


class Scheduler:
    """Decides what the worker's thread does next.

    Callers' threads add and cancel requests; everything that computes is called by the worker alone.

    Args:
        runner: computes.
        cache: whose slots requests take.
        slots: which of them are free.
        queue_capacity: requests that may wait for a slot.

    Attributes:
        changed: its lock guards what threads share: the lists of jobs, the slots, and what they hold.
            Notified whenever there may be something to do.
        is_closed: whether no more requests are taken.
    """

    def __init__(self, runner: Runner, cache: KVCache, slots: SlotAllocator, queue_capacity: int) -> None:
        self.changed = threading.Condition()
        self.is_closed = False
        self._runner = runner
        self._cache = cache
        self._slots = slots
        self._prompts = PrefixCache(cache, slots, runner.chunk_size)
        self._queue_capacity = queue_capacity
        self._decode_seconds = 0.0  # of a step, averaged
        self._waiting: deque[EngineJob] = deque()
        self._prefilling: deque[EngineJob] = deque()
        self._running: list[EngineJob] = []

    # --- called by any thread ---

    def add(self, job: EngineJob) -> None:
        """Put a request into the queue.

        Raises:
            BusyError: the queue is full.
            ClosedError: the model was closed.
        """
        with self.changed:
            if self.is_closed:
                raise ClosedError("the model was closed; load it again")
            ahead = len(self._waiting) + len(self._prefilling) + len(self._running)
            if ahead >= self._slots.num_slots + self._queue_capacity:
                raise BusyError(
                    f"{ahead} requests are running or waiting and the queue takes no more; try again later."
                )
            self._waiting.append(job)
            if len(self._waiting) > self._slots.num_free:
                _tell_position(job, len(self._waiting) - self._slots.num_free)
            self.changed.notify_all()

    def cancel(self, job: EngineJob) -> None:
        """Stop working on a request, whether it waits, is prefilled or decodes."""
        with self.changed:
            job.is_cancelled = True
            if job in self._waiting:
                self._waiting.remove(job)
                self._remove(job)
                self._tell_positions()
            self.changed.notify_all()

    def close(self) -> None:
        """Take no more requests; the worker ends those there are."""
        with self.changed:
            self.is_closed = True
            self.changed.notify_all()

    def forget_prompts(self) -> None:
        """Let the slots forget the prompts they hold; see `PrefixCache.forget`."""
        with self.changed:
            self._prompts.forget()

    @property
    def load(self) -> ModelLoad:
        """How busy the engine is now."""
        with self.changed:
            active = [*self._prefilling, *self._running]
            sequences = [job.sequence for job in active]
            return ModelLoad(
                slots=self._slots.num_slots,
                active=len(active),
                waiting=len(self._waiting),
                queue_capacity=self._queue_capacity,
                kv_tokens=sum(sequence.adapter_positions + sequence.num_tokens for sequence in sequences),
                kv_capacity=self._slots.num_slots * self._cache.capacity,
                kv_bytes=self._cache.num_bytes,
            )

    # --- called by the worker ---

    def admit(self, idle_seconds: float) -> bool:
        """Let cancelled requests go and waiting ones in; wait for one if there is nothing to do.

        The lock is held, and given up while waiting.

        Returns:
            ``False`` if nothing came for ``idle_seconds``, or the model was closed.
        """
        idle_until = time.monotonic() + idle_seconds
        # A loop, because what wakes the thread may be a request that is cancelled already.
        while not self.is_closed:
            for job in [job for job in (*self._prefilling, *self._running) if job.is_cancelled]:
                self._remove(job)
            while self._waiting and self._slots.num_free:
                self._start(self._waiting.popleft())
            self._tell_positions()
            if self._prefilling or self._running:
                return True
            if not self.changed.wait(idle_until - time.monotonic()) and not self._waiting:
                break
        return False

    def run_once(self) -> None:
        """Work on the oldest prompt for a slice of time, then decode one step of all running answers."""
        self._run_prefill()
        self._run_decode()

    def fail_all(self, error: BaseException) -> None:
        """End every answer with an error, so that nobody is left waiting."""
        with self.changed:
            jobs = [*self._waiting, *self._prefilling, *self._running]
            self._waiting.clear()
            for job in jobs:
                self._remove(job)
        for job in jobs:
            job.outbox.fail(error)

    def _start(self, job: EngineJob) -> None:
        """Give a job the slot that holds most of its prompt already; the lock is held."""
        sequence = job.sequence
        prompt, causal = sequence.prompt.token_ids, not sequence.layout.context_length
        job.slot, cached = self._prompts.acquire(sequence.adapter, prompt, causal=causal)
        sequence.start(cached)
        job.prefill = self._prefill(job)
        self._prefilling.append(job)
        _tell_position(job, 0)

    def _prefill(self, job: EngineJob) -> Generator[None, None, Tensor | Candidates]:
        """Take the prompt in; return what the first token is chosen from."""
        logits = yield from self._runner.prefill(job.sequence, job.slot)
        self._prompts.keep(job.slot, job.sequence.prompt.token_ids)
        return select_candidates(logits.unsqueeze(0), [job.sequence.sampler])[0]

    def _run_prefill(self) -> None:
        """Work on the oldest prompt until the slice of time is over; at least one step."""
        seconds = PREFILL_SHARE * self._decode_seconds if self._running else PREFILL_SLICE_SECONDS
        end = time.perf_counter() + seconds
        while self._prefilling and not self.is_closed:
            job = self._prefilling[0]
            if job.is_cancelled:
                return
            assert job.prefill is not None
            try:
                next(job.prefill)
            except StopIteration as done:
                with self.changed:
                    self._prefilling.popleft()
                    self._running.append(job)
                job.prefill = None
                self._advance(job, done.value)
            except Exception as error:  # ends this request, whatever it was; the others go on
                self._fail(job, error)
            if time.perf_counter() >= end:
                return

    def _run_decode(self) -> None:
        jobs = [job for job in self._running if not job.is_cancelled]
        if not jobs:
            return
        started = time.perf_counter()
        for job, scores in self._decode(jobs):
            self._advance(job, scores)
        seconds = time.perf_counter() - started
        # Half of the new one: follows a growing batch within a few steps, and soon forgets one slow step.
        self._decode_seconds = seconds if not self._decode_seconds else (self._decode_seconds + seconds) / 2

    def _decode(self, jobs: SequenceOf[EngineJob]) -> list[tuple[EngineJob, Tensor | Candidates]]:
        """Return each job with what it chooses from.

        **Failures stay with their request.** A step that fails is repeated row by row: keys and values are
        written at the same places again, so rows that did not cause it lose nothing. The row that fails
        alone ends with its error.
        """
        try:
            logits = self._runner.decode([job.sequence for job in jobs], [job.slot for job in jobs])
            rows = select_candidates(logits, [job.sequence.sampler for job in jobs])
        except Exception as error:
            if len(jobs) == 1:
                self._fail(jobs[0], error)
                return []
            return [pair for job in jobs for pair in self._decode([job])]
        return list(zip(jobs, rows, strict=True))

    def _advance(self, job: EngineJob, scores: Tensor | Candidates) -> None:
        """Choose the next token of one answer and hand on what it adds."""
        try:
            delta = job.sequence.advance(scores)
        except Exception as error:  # of this request's sampling or text
            self._fail(job, error)
            return
        if delta.finish_reason is not None:
            with self.changed:
                self._remove(job)
        if delta.text or delta.token_ids or delta.finish_reason:
            job.outbox.put(delta)

    def _fail(self, job: EngineJob, error: Exception) -> None:
        with self.changed:
            self._remove(job)
        job.outbox.fail(explain_failure(error, self._runner.device, job.sequence.num_tokens))

    def _remove(self, job: EngineJob) -> None:
        """Take a job out and give its slot back; the lock is held."""
        if job in self._prefilling:
            self._prefilling.remove(job)
        elif job in self._running:
            self._running.remove(job)
        if job.slot >= 0:
            self._slots.release(job.slot)
            job.slot, job.prefill = -1, None
        job.sequence.drop_adapters()  # the caller may hold the stream, and so the job, for long

    def _tell_positions(self) -> None:
        """Tell every waiting caller how many are served before; the lock is held."""
        for position, job in enumerate(self._waiting, start=1):
            _tell_position(job, position)


def _tell_position(job: EngineJob, position: int) -> None:
    if job.position != position:
        job.position = position
        job.outbox.put(Delta("", queue_position=position))
