"""One request while it runs: its tokens, its sampler, its text, and why it ended."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

from torch import Tensor

from glm_core import ChatRequest, Delta, Sampling, Usage
from glm_core.records import FinishReason

from ..adapters.adapter import Adapter, find_step_parts
from ..network.layout import SequenceLayout
from ..tokenizers import ChatTokenizer, ToolTokenizer
from ..tokenizers.reply import PlainReply, Reply, ReplyPiece
from .constraint import RequiredBeginning, TokenConstraint, combine_constraints
from .detokenizer import IncrementalDetokenizer
from .prompt import Prompt
from .sampling import Candidates, Sampler
from .stop import StopStrings


@dataclass
class Sequence:
    """Everything about a running request except its place in the KV cache.

    Nothing here is shared between requests, so any number of them may be stepped in one batch.

    Attributes:
        prompt: its tokens.
        layout: where they stand.
        adapter: its adapter, until what stands in front of the prompt is in the cache; or ``None``.
        tokenizer: of the model.
        sampler: chooses its tokens.
        stop: watches its text for stop strings.
        generated: tokens decoded so far.
        is_chat: whether the text is cleaned as a reply; that of a bare prompt is left as it is.
        ignore_eos: whether to go on past the model's end of an answer.
        tool_reply: tells calls from text, if tools are offered.
        parallel_calls: whether the answer may go on after a call.
        cached_tokens: leading tokens of the prompt that its slot held already.
        adapter_positions: positions of its slot in front of the prompt, 0 without an adapter.
        step_adapters: parts of the adapter that act in every step.
    """

    prompt: Prompt
    layout: SequenceLayout
    adapter: Adapter | None
    tokenizer: ChatTokenizer
    sampler: Sampler
    stop: StopStrings
    generated: list[int] = field(default_factory=list)
    is_chat: bool = True
    ignore_eos: bool = False
    tool_reply: Reply | None = None
    parallel_calls: bool = True
    cached_tokens: int = 0
    adapter_positions: int = field(init=False)
    step_adapters: tuple[Adapter, ...] = field(init=False)

    def __post_init__(self) -> None:
        self.adapter_positions = 0 if self.adapter is None else self.adapter.num_positions
        self.step_adapters = find_step_parts(self.adapter)
        self._text = IncrementalDetokenizer(self.tokenizer.decode)
        plain = PlainReply(self.tokenizer.make_reply_filter() if self.is_chat else None)
        self._reply: Reply = self.tool_reply or plain
        self._asked_at = self._started_at = self._first_token_at = time.perf_counter()

    @classmethod
    def from_request(
        cls,
        request: ChatRequest,
        prompt: Prompt,
        layout: SequenceLayout,
        adapter: Adapter | None,
        tokenizer: ChatTokenizer,
        sampling: Sampling,
        constraint: TokenConstraint | None = None,
    ) -> Sequence:
        """Return the sequence that answers a request.

        Args:
            request: what is asked.
            prompt: the question, encoded and fitted.
            layout: where its tokens stand.
            adapter: that the request names.
            tokenizer: of the model.
            sampling: every field set.
            constraint: what the answer is held to, besides what the request itself asks for.
        """
        tool_reply = None
        if request.tools and isinstance(tokenizer, ToolTokenizer):
            ways = tokenizer.list_answer_beginnings(request.tools, request.tool_choice)
            constraint = combine_constraints(RequiredBeginning(ways) if ways else None, constraint)
            tool_reply = tokenizer.make_tool_reply(request.tools, request.tool_choice)
        return cls(
            prompt,
            layout,
            adapter,
            tokenizer,
            Sampler(sampling, request.seed, constraint),
            StopStrings(request.stop),
            is_chat=request.prompt is None,
            ignore_eos=bool(sampling.ignore_eos),
            tool_reply=tool_reply,
            parallel_calls=request.parallel_tool_calls,
        )

    @property
    def num_tokens(self) -> int:
        """Prompt and answer so far."""
        return len(self.prompt.token_ids) + len(self.generated)

    def start(self, cached_tokens: int = 0) -> None:
        """Note that the request got its slot; until now it waited.

        Args:
            cached_tokens: leading tokens of the prompt that the slot holds already.
        """
        self.cached_tokens = cached_tokens
        self._started_at = time.perf_counter()

    def drop_filled_adapter(self) -> None:
        """Let go of the adapter once it has filled the slot; what acts in steps stays.

        A removed adapter's memory is free as soon as the last request that waits for it has begun.
        """
        self.adapter = None

    def drop_adapters(self) -> None:
        """Let go of everything of the adapter: nothing of this sequence is computed any more."""
        self.adapter, self.step_adapters = None, ()

    def advance(self, logits: Tensor | Candidates) -> Delta:
        """Choose the next token from ``logits`` ``[V]``, or from candidates, and return what it adds.

        The delta has a ``finish_reason`` if the token ended the answer.
        """
        if self.sampler.must_end():  # before the first token; later ends are seen with the token before
            self._first_token_at = time.perf_counter()
            return self._finish("", (), "stop")
        token = self.sampler.choose(logits, self.prompt.token_ids, self.generated)
        if not self.generated:
            self._first_token_at = time.perf_counter()
        if token in self.tokenizer.stop_token_ids and not self.ignore_eos:
            return self._finish("", (), "stop")
        self.generated.append(token)
        if token in self._reply.next_message_ids:
            return self._end_message(token)
        text, stopped = self.stop.feed(self._text.feed(token))
        if stopped:
            return self._make_last(self._reply.feed(text, last=True), (token,), "stop")
        if self.sampler.must_end():
            return self._finish(text, (token,), "stop")
        if len(self.generated) >= self.prompt.max_new_tokens:
            return self._finish(text, (token,), "length")
        piece = self._reply.feed(text)
        return Delta(piece.text, (token,), tool_calls=piece.calls)

    def _end_message(self, token: int) -> Delta:
        """Begin another message of the same answer: what was held of this one is final."""
        text, stopped = self._flush_text()
        piece = self._reply.begin_next_message(text)
        if stopped or self.sampler.must_end() or (self._reply.calls and not self.parallel_calls):
            return self._make_last(piece, (token,), "stop")
        if len(self.generated) >= self.prompt.max_new_tokens:
            return self._make_last(piece, (token,), "length")
        return Delta(piece.text, (token,), tool_calls=piece.calls)

    def _flush_text(self) -> tuple[str, bool]:
        """Return the rest of the text so far, and whether a stop string occurred in it."""
        text, stopped = self.stop.feed(self._text.flush())
        return (text, True) if stopped else (text + self.stop.flush(), False)

    def _finish(self, text: str, token_ids: tuple[int, ...], reason: FinishReason) -> Delta:
        rest, stopped = self._flush_text()
        piece = self._reply.feed(text + rest, last=True)
        return self._make_last(piece, token_ids, "stop" if stopped else reason)

    def _make_last(self, piece: ReplyPiece, token_ids: tuple[int, ...], reason: FinishReason) -> Delta:
        if reason == "stop" and self._reply.calls:
            reason = "tool_calls"
        usage = Usage(
            prompt_tokens=len(self.prompt.token_ids),
            cached_tokens=self.cached_tokens,
            completion_tokens=len(self.generated),
            dropped_messages=self.prompt.dropped_messages,
            queue_seconds=self._started_at - self._asked_at,
            time_to_first_token=self._first_token_at - self._asked_at,
            decode_seconds=time.perf_counter() - self._first_token_at,
        )
        return Delta(piece.text, token_ids, reason, usage, tool_calls=piece.calls)
