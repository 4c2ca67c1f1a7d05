"""The engine: answers many requests on one network, in one running batch.

What it consists of: a `Scheduler` that decides which requests run, a `Runner` that takes their prompts and
steps through the network, and a `Worker`, the one thread that computes. What a request computes does not
depend on what else runs.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch

from glm_core import ChatRequest, ClosedError, ModelLoad, RequestError, Sampling
from glm_core.listening import is_cancelled

from ..adapters.adapter import Adapter
from ..network.kv_cache import KVCache
from ..network.language_model import LanguageModel
from ..tokenizers import ChatTokenizer
from .constraint import TokenConstraint
from .executor import DecodeExecutor
from .loaded_adapters import LoadedAdapters
from .prompt import Prompt, fit_prompt, fit_text
from .request_stream import RequestStream
from .runner import Runner
from .scheduler import EngineJob, Scheduler
from .sequence import Sequence
from .shared_prompts import SharedPrompts
from .slots import SlotAllocator
from .worker import Worker

# A bound, so that a burst is refused at once (`BusyError`) instead of waiting longer than any client would.
QUEUE_CAPACITY = 64


class Engine:
    """Answers requests on one network.

    Args:
        network: in evaluation mode, on ``device``.
        tokenizer: of the same model.
        cache: slots for the sequences that run at the same time.
        capacity: tokens that prompt and answer of one request may have together.
        sampling: the model's defaults, every field set.
        device: where the network takes its inputs.
        adapters: that requests may name from the start.
        base_adapter: of requests that name none, if the model has one built in.
        executor: computes steps; ``None`` calls the network.
        queue_capacity: requests that may wait for a slot.

    Attributes:
        cache: the keys and values.
        slots: which slots of the cache are free.
        adapters: that requests may name now.
        runner: what computes.
        device: where the network takes its inputs.
    """

    def __init__(
        self,
        network: LanguageModel,
        tokenizer: ChatTokenizer,
        cache: KVCache,
        *,
        capacity: int,
        sampling: Sampling,
        device: torch.device,
        adapters: Iterable[Adapter] = (),
        base_adapter: Adapter | None = None,
        executor: DecodeExecutor | None = None,
        queue_capacity: int = QUEUE_CAPACITY,
    ) -> None:
        self.cache = cache
        self.slots = SlotAllocator(cache.num_slots)
        self.adapters = LoadedAdapters(adapters, base_adapter, capacity, cache.capacity)
        self.runner = Runner(network, cache, device, executor)
        self.device = device
        self._network = network
        self._tokenizer = tokenizer
        self._sampling = sampling
        self._scheduler = Scheduler(self.runner, cache, self.slots, queue_capacity)
        self._worker = Worker(self._scheduler)
        self._prompts = SharedPrompts()

    def stream(self, request: ChatRequest, constraint: TokenConstraint | None = None) -> RequestStream:
        """Check a request, put it into the queue and return the iterator that answers it.

        Args:
            request: what is asked.
            constraint: what the answer is held to, besides what the request itself asks for.

        Raises:
            RequestError: the question does not fit.
            AdapterError: the adapter is not loaded.
            BusyError: the queue is full.
            ClosedError: the model was closed.
        """
        scheduler, job = self._scheduler, EngineJob(self.prepare(request, constraint))
        scheduler.add(job)
        self._worker.ensure_running()
        return RequestStream(job.outbox, lambda: scheduler.cancel(job))

    def prepare(self, request: ChatRequest, constraint: TokenConstraint | None = None) -> Sequence:
        """Return the sequence that will answer a request; nothing is computed yet.

        Arguments and errors as of `stream`.
        """
        adapter, requested = self.adapters.get(request.adapter), request.sampling
        sampling = requested.complete_with(self._sampling)
        capacity = self.adapters.count_room_beside(adapter)

        def fit() -> Prompt:
            tokenizer = self._tokenizer
            if request.prompt is not None:
                return fit_text(tokenizer, request.prompt, sampling, requested=requested, capacity=capacity)
            return fit_prompt(
                tokenizer,
                request.messages,
                sampling,
                requested=requested,
                capacity=capacity,
                tools=request.tools,
                check=self._check_wanted,
            )

        prompt = self._prompts.get(request, sampling, capacity, fit, self._check_wanted)
        try:
            layout = self._network.find_layout(prompt.token_ids)
        except ValueError as error:  # token ids from outside without the tokens that every prompt has
            raise RequestError(f"the model cannot go on from these token ids: {error}") from error
        return Sequence.from_request(request, prompt, layout, adapter, self._tokenizer, sampling, constraint)

    def _check_wanted(self) -> None:
        """Raise if the request that this thread prepares is not wanted any more.

        Raises:
            ClosedError: the model was closed, or the answer was cancelled.
        """
        if self._scheduler.is_closed:
            raise ClosedError("the model was closed; load it again")
        if is_cancelled():
            raise ClosedError("the answer was cancelled while its prompt was prepared")

    @property
    def load(self) -> ModelLoad:
        """How busy the engine is now."""
        return self._scheduler.load

    def forget_prompts(self) -> None:
        """Let the slots forget the prompts they hold; for measuring what reuse is worth."""
        self._scheduler.forget_prompts()

    def close(self) -> None:
        """End running and waiting answers with `ClosedError`; returns when the worker has stopped."""
        self._worker.close()
