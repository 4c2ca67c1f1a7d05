"""One request while it runs: its tokens, its sampler, its text, and why it ended."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

from torch import Tensor

from glm_core import ChatRequest, Delta, Sampling, Usage
from glm_core.records import FinishReason

from ..layout import Layout
from ..tokenizers import ChatTokenizer
from .detokenizer import IncrementalDetokenizer
from .prompt import Prompt
from .sampling import Sampler
from .stop import StopStrings


@dataclass
class Sequence:
    """Everything about a running request except its place in the KV cache.

    Nothing here is shared between requests, so any number of them may be stepped in one batch.

    Attributes:
        prompt: its tokens.
        layout: where they stand.
        prefix: ``[L, 2, G, P, H]`` of its adapter, until it is in the cache; or ``None``.
        generated: tokens decoded so far.
        is_chat: whether the text is cleaned as a reply; that of a bare prompt is left as it is.
        ignore_eos: whether to go on past the model's end of an answer.
        prefix_length: P, 0 without an adapter.
    """

    prompt: Prompt
    layout: Layout
    prefix: Tensor | None
    tokenizer: ChatTokenizer
    sampler: Sampler
    stop: StopStrings
    generated: list[int] = field(default_factory=list)
    is_chat: bool = True
    ignore_eos: bool = False
    prefix_length: int = field(init=False)

    def __post_init__(self) -> None:
        self.prefix_length = 0 if self.prefix is None else self.prefix.shape[3]
        self._text = IncrementalDetokenizer(self.tokenizer.decode)
        self._filter = self.tokenizer.reply_filter() if self.is_chat else None
        self._asked = self._began = self._first_token = time.perf_counter()

    @classmethod
    def of_request(
        cls,
        request: ChatRequest,
        prompt: Prompt,
        layout: Layout,
        prefix: Tensor | None,
        tokenizer: ChatTokenizer,
        sampling: Sampling,
    ) -> Sequence:
        """The sequence that answers a request."""
        return cls(
            prompt,
            layout,
            prefix,
            tokenizer,
            Sampler(sampling, request.seed),
            StopStrings(request.stop),
            is_chat=request.prompt is None,
            ignore_eos=bool(sampling.ignore_eos),
        )

    @property
    def num_tokens(self) -> int:
        """Prompt and answer so far."""
        return len(self.prompt.token_ids) + len(self.generated)

    def begin(self) -> None:
        """The request got its slot; until now it waited."""
        self._began = time.perf_counter()

    def advance(self, logits: Tensor) -> Delta:
        """Choose the next token from ``logits`` ``[V]`` and say what it adds.

        The delta has a ``finish_reason`` if the token ended the answer.
        """
        token = self.sampler.choose(logits, self.prompt.token_ids, self.generated)
        if not self.generated:
            self._first_token = time.perf_counter()
        if token in self.tokenizer.stop_token_ids and not self.ignore_eos:
            return self._finish("", (), "stop")
        self.generated.append(token)
        text, stopped = self.stop.feed(self._text.feed(token))
        if stopped:
            return self._finish(text, (token,), "stop", flush=False)
        if len(self.generated) >= self.prompt.max_new_tokens:
            return self._finish(text, (token,), "length")
        return Delta(self._cleaned(text), (token,))

    def _finish(
        self, text: str, token_ids: tuple[int, ...], reason: FinishReason, *, flush: bool = True
    ) -> Delta:
        if flush:
            rest, stopped = self.stop.feed(self._text.flush())
            text += rest
            reason = "stop" if stopped else reason
            text += "" if stopped else self.stop.flush()
        usage = Usage(
            prompt_tokens=len(self.prompt.token_ids),
            completion_tokens=len(self.generated),
            dropped_messages=self.prompt.dropped_messages,
            queue_seconds=self._began - self._asked,
            time_to_first_token=self._first_token - self._asked,
            decode_seconds=time.perf_counter() - self._first_token,
        )
        return Delta(self._cleaned(text, last=True), token_ids, reason, usage)

    def _cleaned(self, text: str, *, last: bool = False) -> str:
        return text if self._filter is None else self._filter.feed(text, last=last)
