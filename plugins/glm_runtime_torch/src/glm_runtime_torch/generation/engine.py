"""The engine: owns the KV cache and runs prefill and decode for any number of callers.

A request is a `Sequence` with a slot of its own; prefill and decode are functions of a list of
sequences, so the rows of a batch are independent of one another. Callers on different threads
take turns at the granularity of one step.

Axes: B batch · T new tokens · S key positions · V vocabulary
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from collections.abc import Sequence as SequenceOf

import torch
from torch import Tensor

from glm_core import AdapterError, ChatRequest, ClosedError, Delta, OutOfMemoryError, Sampling

from ..attention import visibility_mask
from ..families import LanguageModel
from ..kv_cache import KVCache
from ..tokenizers import ChatTokenizer
from .prompt import fit_prompt
from .sequence import Sequence


class Engine:
    """Answers requests on one network.

    Args:
        network: in evaluation mode, on ``device``.
        tokenizer: of the same model.
        cache: slots for the sequences that run at the same time.
        capacity: tokens that prompt and answer of one request may have together.
        sampling: the model's defaults, every field set.
        prefixes: adapter name to its keys and values, ``[L, 2, G, P, H]``.
        base_prefix: the prefix of requests that name no adapter, if the model has one built in.
        device: of the network.
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
    ) -> None:
        self.cache = cache
        self._network = network
        self._tokenizer = tokenizer
        self._capacity = capacity
        self._sampling = sampling
        self._prefixes = dict(prefixes)
        self._base_prefix = base_prefix
        self._device = device
        self._step = threading.Lock()
        self._closed = False

    def stream(self, request: ChatRequest) -> Iterator[Delta]:
        """Check a request and return the iterator that answers it.

        Raises:
            RequestError: the question does not fit.
            AdapterError: the adapter is not loaded.
        """
        return self._run(self.admit(request))

    def admit(self, request: ChatRequest) -> Sequence:
        """The sequence that will answer a request; nothing is computed yet."""
        if request.adapter is not None and request.adapter not in self._prefixes:
            raise AdapterError(f"adapter {request.adapter!r} is not loaded")
        prefix = self._base_prefix if request.adapter is None else self._prefixes[request.adapter]
        sampling = request.sampling.or_else(self._sampling)
        prompt = fit_prompt(
            self._tokenizer, request.messages, sampling, wanted=request.sampling, capacity=self._capacity
        )
        layout = self._network.layout(prompt.token_ids)
        return Sequence.of_request(request, prompt, layout, prefix, self._tokenizer, sampling)

    @torch.inference_mode()
    def prefill(self, sequence: Sequence, slot: int) -> Tensor:
        """Fill a slot with the prefix and the prompt; logits ``[V]`` of the next token."""
        if sequence.prefix is not None:
            self.cache.write_prefix(slot, sequence.prefix)
        prompt, start = sequence.prompt.token_ids, sequence.prefix_length
        rows = self.cache.rows([slot], [start], len(prompt))
        query_index = start + torch.arange(len(prompt)).unsqueeze(0)  # [1, T]
        visible_to_all = torch.tensor([start + sequence.layout.context_length])
        logits = self._network.last_logits(
            torch.tensor([prompt], device=self._device),
            sequence.layout.position_ids(0, len(prompt)).unsqueeze(0).to(self._device),
            visibility_mask(query_index, visible_to_all, rows.num_keys).to(self._device),
            rows,
        )
        return logits[0]

    @torch.inference_mode()
    def decode(self, sequences: SequenceOf[Sequence], slots: SequenceOf[int]) -> Tensor:
        """Feed each sequence's last token; logits ``[B, V]`` of the next ones."""
        last = [sequence.num_tokens - 1 for sequence in sequences]
        starts = [sequence.prefix_length + index for sequence, index in zip(sequences, last, strict=True)]
        rows = self.cache.rows(slots, starts, 1)
        positions = [
            sequence.layout.position_ids(index, index + 1)
            for sequence, index in zip(sequences, last, strict=True)
        ]
        mask = None
        if len(set(starts)) > 1:  # rows of equal length have nothing to hide
            query_index = torch.tensor(starts).unsqueeze(1)
            nothing_else = torch.zeros(len(starts), dtype=torch.int64)
            mask = visibility_mask(query_index, nothing_else, rows.num_keys).to(self._device)
        return self._network.last_logits(
            torch.tensor([[sequence.generated[-1]] for sequence in sequences], device=self._device),
            torch.stack(positions).to(self._device),
            mask,
            rows,
        )

    def close(self) -> None:
        """Refuse further steps; running answers end with `ClosedError`."""
        self._closed = True

    def _run(self, sequence: Sequence) -> Iterator[Delta]:
        slot = self.cache.acquire()
        try:
            delta = sequence.advance(self._guarded_step(sequence, slot))
            yield delta
            while delta.finish_reason is None:
                delta = sequence.advance(self._guarded_step(sequence, slot))
                yield delta
        finally:  # reached at the end, on an error, and when the caller closes the stream
            self.cache.release(slot)

    def _guarded_step(self, sequence: Sequence, slot: int) -> Tensor:
        with self._step:
            if self._closed:
                raise ClosedError("the model was closed while it was answering")
            try:
                return (
                    self.decode([sequence], [slot])[0] if sequence.generated else self.prefill(sequence, slot)
                )
            except RuntimeError as error:
                if not _is_out_of_memory(error):
                    raise
                raise OutOfMemoryError(
                    f"{self._device} ran out of memory at {sequence.num_tokens} tokens. "
                    "Use a smaller max_length, a shorter conversation, or a quantised model."
                ) from error


def _is_out_of_memory(error: RuntimeError) -> bool:
    return isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error)
