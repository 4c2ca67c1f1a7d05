"""One open GGUF file: its facts, its queue of requests, and the thread that answers them."""

from __future__ import annotations

import dataclasses
import threading
from collections import deque
from pathlib import Path
from typing import Any

from glm_core import (
    AdapterError,
    BusyError,
    ChatRequest,
    ClosedError,
    ConfigError,
    DeviceError,
    ModelInfo,
    ModelLoad,
    Sampling,
)
from glm_core.records import ModelSource, Placement

from ._answer import Answer, AnswerJob
from ._binding import count_threads, open_llama, read_facts
from ._engine import PIECE, Engine
from ._prompt import make_prompt
from ._vocabulary import Vocabulary

QUEUE_CAPACITY = 64  # as the torch runtime; with one answer at a time the last waits for minutes
DEFAULT_CONTEXT_LENGTH = 8192  # llama.cpp reserves memory for all of it, so not what the model could
"""Used where the user names none: llama.cpp reserves the whole cache, and many models allow 100,000."""


class GgufModel:
    """A GGUF file, first with its vocabulary alone, after `place` with its weights.

    One conversation is answered at a time, in the order of the requests, by a thread that lives as long
    as there is something to answer. So nobody's answer waits for somebody else to read theirs, and a
    model that is forgotten without being closed can be collected.

    Args:
        source: what the user asked for.
        file: the file that it means.

    Raises:
        CheckpointError: the file is damaged, or holds a model that cannot chat.
        AdapterError: adapters are wanted.
    """

    def __init__(self, source: ModelSource, file: Path) -> None:
        if source.adapters:
            raise AdapterError("runtime llamacpp takes no adapters; leave --adapter out")
        self._file = file
        self._closed = False
        self._engine: Engine | None = None
        # Guards the queue, and keeps `close` from freeing the vocabulary while a request is encoded.
        # Re-entrant: a finaliser of another model may run at any moment, in any thread.
        self._lock = threading.RLock()
        self._waiting: deque[AnswerJob] = deque()
        self._running: AnswerJob | None = None
        self._worker: threading.Thread | None = None
        self._llama: Any = open_llama(file, vocab_only=True)
        self._vocabulary = Vocabulary(self._llama)
        facts: dict[str, Any] = read_facts(self._llama)
        self._trained_length = facts["context_length"]
        sampling = _read_default_sampling(self._trained_length)
        self.info = ModelInfo(source.name, sampling=sampling, **facts)

    def place(self, placement: Placement) -> GgufModel:
        """Read the weights, and reserve the KV cache.

        Raises:
            ConfigError: something is asked for that llama.cpp is not told here.
            OutOfMemoryError: it does not fit.
        """
        if self._closed:
            raise ClosedError("the model was closed")
        if self._engine is not None:
            return self  # placed already, and there is only one place
        if len(placement.devices) != 1 or placement.device_map:
            raise DeviceError("llamacpp is one device; leave --device-map and further devices out")
        if placement.kv_memory_bytes:
            raise ConfigError(
                "llamacpp has no limit of its cache in bytes; use --context-length, not --kv-memory"
            )
        if placement.slots and placement.slots != 1:
            placement.notify(
                f"llamacpp answers one conversation at a time, not {placement.slots}; others wait"
            )
        length = placement.context_length or min(self._trained_length, DEFAULT_CONTEXT_LENGTH)
        if length != self._trained_length:
            placement.notify(f"context: {length} tokens; the model was made for {self._trained_length}")
        threads = count_threads(self.info.weight_bytes)
        llama = open_llama(
            self._file, n_ctx=length, n_batch=PIECE, n_threads=threads, n_threads_batch=threads
        )
        with self._lock:
            self._llama.close()
            self._llama, self._vocabulary = llama, Vocabulary(llama)
            self._engine = Engine(llama)
        self.info = dataclasses.replace(
            self.info,
            context_length=length,
            sampling=_read_default_sampling(length),
            devices=placement.devices,
            dtype="float32",
        )
        return self

    @property
    def load(self) -> ModelLoad:
        """Return how busy the model is at this moment."""
        with self._lock:
            active = self._running is not None
            used = self._engine.used if active and self._engine else 0
            waiting, capacity = len(self._list_waiting()), self.info.context_length
            return ModelLoad(1, int(active), waiting, QUEUE_CAPACITY, used, capacity)

    def stream(self, request: ChatRequest) -> Answer:
        """Queue a request and return its answer.

        Raises:
            ClosedError: the model was closed.
            AdapterError: the request names one.
            RequestError: its prompt does not fit.
            BusyError: the queue is full.
        """
        if request.adapter is not None:
            raise AdapterError(f"adapter {request.adapter!r} is not loaded; runtime llamacpp takes none")
        sampling = request.sampling.complete_with(self.info.sampling)
        with self._lock:
            if self._closed:
                raise ClosedError("the model was closed")
            if self._engine is None:
                raise DeviceError("the model is not placed yet; open it with glm_core.load")
            prompt = make_prompt(self._vocabulary, request, sampling, self.info.context_length)
            waiting = self._list_waiting()
            if len(waiting) >= QUEUE_CAPACITY:
                raise BusyError(f"the queue is full: {len(waiting)} requests wait; try again later")
            job = AnswerJob(request, prompt, sampling)
            self._waiting.append(job)
            if self._running is not None:
                job.tell_position(len(waiting) + 1)
            if self._worker is None:
                # A daemon, so that a program which forgets to close the model still ends.
                self._worker = threading.Thread(target=self._answer_all, name="glm-llamacpp", daemon=True)
                self._worker.start()
        return Answer(job)

    def close(self) -> None:
        """End all answers with `ClosedError`, and give the memory back."""
        with self._lock:
            self._closed = True
            worker = self._worker
            for job in [*self._waiting, *([self._running] if self._running else [])]:
                job.cancelled = True
                job.fail(ClosedError("the model was closed"))
            self._waiting.clear()
        if worker is not None and worker is not threading.current_thread():
            worker.join()  # it uses the memory until it has seen that its answer is cancelled
        with self._lock:
            self._llama.close()  # does nothing the second time

    def _list_waiting(self) -> list[AnswerJob]:
        """Return the requests that wait and are still wanted."""
        return [job for job in self._waiting if not job.cancelled]

    def _answer_all(self) -> None:
        """Answer what waits, in its order, until nothing does."""
        while (job := self._next_job()) is not None:
            try:
                self._answer(job)
            except Exception as error:  # whatever it is: it is this answer's, and its reader is told
                job.fail(error)

    def _next_job(self) -> AnswerJob | None:
        with self._lock:
            waiting = self._list_waiting()
            self._waiting.clear()
            self._waiting.extend(waiting)
            self._running = self._waiting.popleft() if waiting else None
            if self._running is None:
                self._worker = None  # under the lock: the next request starts another
                return None
            for position, job in enumerate(self._waiting, 1):
                job.tell_position(position)
            return self._running

    def _answer(self, job: AnswerJob) -> None:
        assert self._engine is not None
        job.begin()
        seed, prompt = job.request.seed, job.prompt.token_ids
        in_front = job.request.prompt is None  # of an answer; bare text may well go on with a space
        for token in self._engine.generate(prompt, job.sampling, seed, lambda: job.cancelled):
            job.cached_tokens = self._engine.reused
            if self._vocabulary.ends_answer(token) and not job.sampling.ignore_eos:
                job.finish("stop")
                return
            if job.add(token, self._vocabulary.decode_token(token, skip_space=in_front)):
                return
            in_front = False


def _read_default_sampling(context_length: int) -> Sampling:
    """Return llama.cpp's own defaults, for a GGUF file that says nothing of sampling."""
    return Sampling(
        max_length=context_length,
        temperature=0.8,
        top_p=0.95,
        top_k=40,
        repetition_penalty=1.0,
        presence_penalty=0.0,
        frequency_penalty=0.0,
        do_sample=True,
        ignore_eos=False,
    )
