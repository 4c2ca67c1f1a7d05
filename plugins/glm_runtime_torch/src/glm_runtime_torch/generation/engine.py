"""The engine: one worker owns the network and answers many requests in one running batch.

Requests wait in a bounded queue, take a slot of the KV cache when one is free, are prefilled in
short steps, and then join the decode batch; they leave it when they end, are cancelled or fail.
Between two decode steps prefill gets a share of the time, so a long prompt slows running answers
and never stops them. What a request computes does not depend on what else runs: prefill works on
one sequence at a time in pieces fixed by its length, and the rows of a decode step are independent.

Axes: B batch · V vocabulary
"""

from __future__ import annotations

import atexit
import threading
import time
import weakref
from collections import deque
from collections.abc import Generator, Mapping
from collections.abc import Sequence as SequenceOf
from dataclasses import dataclass, field

import torch
from torch import Tensor

from glm_core import (
    BusyError,
    ChatRequest,
    ClosedError,
    Delta,
    ModelLoad,
    OutOfMemoryError,
    RequestError,
    Sampling,
)

from ..network.kv_cache import KVCache
from ..network.language_model import LanguageModel
from ..tokenizers import ChatTokenizer
from .candidates import rows_to_choose_from
from .executor import DecodeExecutor, EagerExecutor
from .prefix_cache import PrefixCache
from .prefixes import Prefixes
from .prompt import fit_prompt, fit_text
from .request_stream import Outbox, RequestStream
from .sampling import Candidates
from .sequence import Sequence

QUEUE_CAPACITY = 64
# Tokens that pass one block between two looks at the clock: of a 6-billion-parameter model on two
# cores about as much work as one decode step.
PREFILL_CHUNK = 128
# While answers run, prefill takes this many times the duration of a decode step between two of them.
PREFILL_SHARE = 2.0
# Without running answers there is only a cancellation to look out for.
PREFILL_SLICE_SECONDS = 0.05
# The worker's thread ends when nothing was asked of it for so long; the next request starts another.
IDLE_SECONDS = 2.0


# A thread that is inside torch when Python takes the process down ends it with an abort.
_ENGINES: weakref.WeakSet[Engine] = weakref.WeakSet()


@atexit.register
def _close_all() -> None:
    for engine in list(_ENGINES):
        engine.close()


@dataclass(eq=False)
class _Job:
    """One request on its way through the engine."""

    sequence: Sequence
    outbox: Outbox = field(default_factory=Outbox)
    cancelled: bool = False
    position: int = 0  # in the queue, as the caller was told
    slot: int = -1
    prefill: Generator[None, None, Tensor | Candidates] | None = None


class Engine:
    """Answers requests on one network.

    Args:
        network: in evaluation mode, on ``device``.
        tokenizer: of the same model.
        cache: slots for the sequences that run at the same time.
        capacity: tokens that prompt and answer of one request may have together.
        sampling: the model's defaults, every field set.
        prefixes: adapter name to its keys and values, ``[L, 2, G, P, H]``; see `Prefixes`.
        base_prefix: the prefix of requests that name no adapter, if the model has one built in.
        device: where the network takes its inputs.
        executor: computes decode steps; ``None`` calls the network.
        queue_capacity: requests that may wait for a slot.
    """

    def __init__(
        self,
        network: LanguageModel,
        tokenizer: ChatTokenizer,
        cache: KVCache,
        *,
        capacity: int,
        sampling: Sampling,
        prefixes: Mapping[str, Tensor],
        base_prefix: Tensor | None,
        device: torch.device,
        executor: DecodeExecutor | None = None,
        queue_capacity: int = QUEUE_CAPACITY,
    ) -> None:
        self.cache = cache
        self._network = network
        self._tokenizer = tokenizer
        self._sampling = sampling
        self.prefixes = Prefixes(prefixes, base_prefix, capacity, cache.capacity)
        self.device = device
        self._executor = EagerExecutor(network, cache, device) if executor is None else executor
        self._prompts = PrefixCache(cache, PREFILL_CHUNK)
        self._queue_capacity = queue_capacity
        self._decode_seconds = 0.0
        # Shared with callers' threads, under the lock; the rest belongs to the worker.
        self._changed = threading.Condition()
        self._waiting: deque[_Job] = deque()
        self._prefilling: deque[_Job] = deque()
        self._running: list[_Job] = []
        self._worker: threading.Thread | None = None
        self._closed = False
        _ENGINES.add(self)

    def stream(self, request: ChatRequest) -> RequestStream:
        """Check a request, put it into the queue and return the iterator that answers it.

        Raises:
            RequestError: the question does not fit.
            AdapterError: the adapter is not loaded.
            BusyError: the queue is full.
            ClosedError: the model was closed.
        """
        job = _Job(self.prepare(request))
        with self._changed:
            if self._closed:
                raise ClosedError("the model was closed; load it again")
            ahead = len(self._waiting) + len(self._prefilling) + len(self._running)
            if ahead >= self.cache.num_slots + self._queue_capacity:
                raise BusyError(
                    f"{ahead} requests are running or waiting and the queue takes no more; try again later."
                )
            self._waiting.append(job)
            if len(self._waiting) > self.cache.free_slots:
                self._tell_position(job, len(self._waiting) - self.cache.free_slots)
            if self._worker is None:
                self._worker = threading.Thread(target=self._work, name="glm-engine", daemon=True)
                self._worker.start()
            self._changed.notify_all()
        return RequestStream(job.outbox, lambda: self._cancel(job))

    def prepare(self, request: ChatRequest) -> Sequence:
        """The sequence that will answer a request; nothing is computed yet."""
        prefix, wanted = self.prefixes.of(request.adapter), request.sampling
        sampling, capacity = wanted.or_else(self._sampling), self.prefixes.room_beside(prefix)
        if request.prompt is None:
            prompt = fit_prompt(
                self._tokenizer,
                request.messages,
                sampling,
                wanted=wanted,
                capacity=capacity,
                tools=request.tools,
            )
        else:
            prompt = fit_text(self._tokenizer, request.prompt, sampling, wanted=wanted, capacity=capacity)
        try:
            layout = self._network.layout(prompt.token_ids)
        except ValueError as error:  # token ids from outside without the tokens that every prompt has
            raise RequestError(f"the model cannot go on from these token ids: {error}") from error
        return Sequence.of_request(request, prompt, layout, prefix, self._tokenizer, sampling)

    def prefill(self, sequence: Sequence, slot: int) -> Generator[None, None, Tensor]:
        """Fill a slot with the prefix and the prompt, in short steps; logits ``[V]`` of the next token."""
        done = sequence.cached_tokens
        if sequence.prefix is not None and not done:
            self.cache.write_prefix(slot, sequence.prefix)
        sequence.prefix = None
        prompt, layout = sequence.prompt.token_ids, sequence.layout
        logits = yield from self._network.prefill(
            torch.tensor([prompt[done:]], device=self.device),
            layout.position_ids(done, len(prompt)).unsqueeze(0).to(self.device),
            self.cache.prefill_rows(slot, sequence.prefix_length + done, layout.context_length),
            PREFILL_CHUNK,
        )
        return logits[0]

    def decode(self, sequences: SequenceOf[Sequence], slots: SequenceOf[int]) -> Tensor:
        """Feed each sequence's last token; logits ``[B, V]`` of the next ones."""
        lengths = [sequence.prefix_length + sequence.num_tokens for sequence in sequences]
        positions = [
            sequence.layout.position_ids(sequence.num_tokens - 1, sequence.num_tokens)
            for sequence in sequences
        ]
        return self._executor.decode(
            [sequence.generated[-1] for sequence in sequences],
            torch.stack(positions).squeeze(2),
            slots,
            lengths,
        )

    @property
    def load(self) -> ModelLoad:
        """How busy the engine is now."""
        with self._changed:
            active = [*self._prefilling, *self._running]
            return ModelLoad(
                slots=self.cache.num_slots,
                active=len(active),
                waiting=len(self._waiting),
                queue_capacity=self._queue_capacity,
                kv_tokens=sum(job.sequence.prefix_length + job.sequence.num_tokens for job in active),
                kv_capacity=self.cache.num_slots * self.cache.capacity,
                kv_bytes=self.cache.num_bytes,
            )

    def forget_prompts(self) -> None:
        """Let the slots forget the prompts they hold; see `PrefixCache.forget`."""
        with self._changed:
            self._prompts.forget()

    def close(self) -> None:
        """End running and waiting answers with `ClosedError`; returns when the worker has stopped."""
        with self._changed:
            self._closed = True
            worker = self._worker
            self._changed.notify_all()
        if worker is not None and worker is not threading.current_thread():
            worker.join()

    def _cancel(self, job: _Job) -> None:
        with self._changed:
            job.cancelled = True  # a running one leaves at the next step
            if job in self._waiting:
                self._waiting.remove(job)
                self._leave(job)
                self._tell_positions()
            self._changed.notify_all()

    @torch.inference_mode()
    def _work(self) -> None:
        """The worker's life: admit, prefill a little, decode one step, again."""
        while self._admit():
            try:
                self._prefill_slice()
                self._decode_step()
            except BaseException as error:  # our own bug: nobody may be left waiting for it
                self._fail_all(error)
                raise

    def _admit(self) -> bool:
        """Let cancelled sequences go and waiting ones in; ``False`` ends the worker."""
        with self._changed:
            idle_until = time.monotonic() + IDLE_SECONDS
            while not self._closed:
                for job in [job for job in (*self._prefilling, *self._running) if job.cancelled]:
                    self._leave(job)
                while self._waiting and self.cache.free_slots:
                    job = self._waiting.popleft()
                    job.slot = self._begin(job.sequence)
                    job.prefill = self._first_scores(job)
                    self._prefilling.append(job)
                    self._tell_position(job, 0)
                self._tell_positions()
                if self._prefilling or self._running:
                    return True
                if not self._changed.wait(idle_until - time.monotonic()) and not self._waiting:
                    break
            self._worker = None
        if self._closed:
            self._fail_all(ClosedError("the model was closed while it was answering"))
        return False

    def _begin(self, sequence: Sequence) -> int:
        """A slot for a sequence, the one that holds most of its prompt already."""
        prompt, causal = sequence.prompt.token_ids, not sequence.layout.context_length
        slot, cached = self._prompts.acquire(sequence.prefix, prompt, causal=causal)
        sequence.begin(cached)
        return slot

    def _prefill_slice(self) -> None:
        """Work on the oldest prompt until the slice of time is over; at least one step."""
        running = bool(self._running)
        end = time.perf_counter() + (
            PREFILL_SHARE * self._decode_seconds if running else PREFILL_SLICE_SECONDS
        )
        while self._prefilling and not self._closed:
            job = self._prefilling[0]
            if job.cancelled:
                return
            assert job.prefill is not None
            try:
                next(job.prefill)
            except StopIteration as done:
                with self._changed:
                    self._prefilling.popleft()
                    self._running.append(job)
                job.prefill = None
                self._advance(job, done.value)
            except Exception as error:  # ends this request, whatever it was; the others go on
                self._fail(job, error)
            if time.perf_counter() >= end:
                return

    def _first_scores(self, job: _Job) -> Generator[None, None, Tensor | Candidates]:
        """Take the prompt in; what the first token is chosen from."""
        logits = yield from self.prefill(job.sequence, job.slot)
        self._prompts.keep(job.slot, job.sequence.prompt.token_ids)
        return rows_to_choose_from(logits.unsqueeze(0), [job.sequence.sampler])[0]

    def _decode_step(self) -> None:
        jobs = [job for job in self._running if not job.cancelled]
        if not jobs:
            return
        started = time.perf_counter()
        for job, scores in self._decoded(jobs):
            self._advance(job, scores)
        seconds = time.perf_counter() - started
        self._decode_seconds = seconds if not self._decode_seconds else (self._decode_seconds + seconds) / 2

    def _decoded(self, jobs: SequenceOf[_Job]) -> list[tuple[_Job, Tensor | Candidates]]:
        """Each job with what it chooses from; a failing step is repeated row by row, to find whose it is."""
        try:
            logits = self.decode([job.sequence for job in jobs], [job.slot for job in jobs])
            rows = rows_to_choose_from(logits, [job.sequence.sampler for job in jobs])
        except Exception as error:
            if len(jobs) == 1:
                self._fail(jobs[0], error)
                return []
            return [pair for job in jobs for pair in self._decoded([job])]
        return list(zip(jobs, rows, strict=True))

    def _advance(self, job: _Job, scores: Tensor | Candidates) -> None:
        try:
            delta = job.sequence.advance(scores)
        except Exception as error:  # of this request's sampling or text
            self._fail(job, error)
            return
        if delta.finish_reason is not None:
            with self._changed:
                self._leave(job)
        if delta.text or delta.token_ids or delta.finish_reason:
            job.outbox.put(delta)

    def _fail(self, job: _Job, error: Exception) -> None:
        if is_out_of_memory(error):
            ours = OutOfMemoryError(
                f"{self.device} ran out of memory at {job.sequence.num_tokens} tokens. "
                "Use a smaller max_length, a shorter conversation, or a quantised model."
            )
            ours.__cause__ = error
            error = ours
        with self._changed:
            self._leave(job)
        job.outbox.fail(error)

    def _fail_all(self, error: BaseException) -> None:
        with self._changed:
            self._worker = None
            jobs = [*self._waiting, *self._prefilling, *self._running]
            self._waiting.clear()
            for job in jobs:
                self._leave(job)
        for job in jobs:
            job.outbox.fail(error)

    def _leave(self, job: _Job) -> None:
        """Take a job out and give its slot back; the lock is held."""
        if job in self._prefilling:
            self._prefilling.remove(job)
        elif job in self._running:
            self._running.remove(job)
        if job.slot >= 0:
            self.cache.release(job.slot)
            job.slot, job.prefill = -1, None
        job.sequence.prefix = None  # the caller may hold the stream, and so the job, for long

    def _tell_positions(self) -> None:
        """Tell every waiting caller how many are served before; the lock is held."""
        for position, job in enumerate(self._waiting, start=1):
            self._tell_position(job, position)

    def _tell_position(self, job: _Job, position: int) -> None:
        if job.position != position:
            job.position = position
            job.outbox.put(Delta("", queue_position=position))


def is_out_of_memory(error: Exception) -> bool:
    """Whether an error, of torch or of Python, says that memory ran out."""
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return True
    return isinstance(error, RuntimeError) and "can't allocate memory" in str(error)
