"""Fitting a conversation into the length that a request may use."""

from __future__ import annotations

import bisect
import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from glm_core import Message, RequestError, Sampling, Tool

from ..tokenizers import ChatTokenizer, ToolTokenizer

# Room kept for the answer while history is dropped, if the request names none: some paragraphs.
DEFAULT_ANSWER_ROOM = 256


@dataclass(frozen=True)
class Prompt:
    """A prompt that fits.

    Attributes:
        token_ids: ready to prefill.
        max_new_tokens: how long the answer may get.
        dropped_messages: how many of the oldest messages were left out.
    """

    token_ids: tuple[int, ...]
    max_new_tokens: int
    dropped_messages: int


def fit_prompt(
    tokenizer: ChatTokenizer,
    messages: Sequence[Message],
    sampling: Sampling,
    *,
    requested: Sampling,
    capacity: int,
    tools: Sequence[Tool] = (),
    check: Callable[[], None] = lambda: None,
) -> Prompt:
    """Encode a conversation, leaving out its oldest rounds until an answer fits as well.

    System messages, tools and the last question always stay. A round begins with a question, so a
    tool's call and its answer stay or go together. As few rounds as possible are left out.

    Args:
        tokenizer: encodes whole conversations.
        messages: the conversation.
        sampling: every field set.
        requested: what the request itself set: a ``max_new_tokens`` there without a ``max_length``
            lifts the default total, as in transformers.
        capacity: tokens that one sequence may have here at all, beside its adapter.
        tools: what the model may call.
        check: called between two texts that are encoded; raises what ends the work.

    Raises:
        RequestError: the last question alone is too long, or the family knows no tools.
    """
    limit = _find_limit(sampling, requested, capacity)
    room = min(sampling.max_new_tokens or DEFAULT_ANSWER_ROOM, max(1, limit // 4))
    history = _History(tokenizer, messages, tools, check)
    first = history.find_first(limit - room)
    what = "question" if messages[-1].role == "user" else "question with its tool calls and their answers"
    return _make_prompt(history.encode(first), limit, sampling, history.starts[first], what)


class _History:
    """A conversation whose oldest rounds may be left out.

    Args:
        tokenizer: encodes whole conversations.
        messages: the conversation.
        tools: what the model may call.
        check: see `fit_prompt`.

    Attributes:
        starts: for each number of rounds left out, how many messages these are; 0 first.
    """

    def __init__(
        self,
        tokenizer: ChatTokenizer,
        messages: Sequence[Message],
        tools: Sequence[Tool],
        check: Callable[[], None],
    ) -> None:
        self._tokenizer = tokenizer
        self._system = [message for message in messages if message.role == "system"]
        self._rest = [message for message in messages if message.role != "system"]
        self._tools = tools
        self._check = check
        self._encoded: dict[int, list[int]] = {}
        self.starts = [
            index for index, message in enumerate(self._rest) if index == 0 or message.role == "user"
        ]

    def encode(self, dropped: int) -> list[int]:
        """Return the prompt without the first ``dropped`` rounds."""
        if dropped not in self._encoded:
            self._check()
            kept = [*self._system, *self._rest[self.starts[dropped] :]]
            self._encoded[dropped] = _encode(self._tokenizer, kept, self._tools)
        return self._encoded[dropped]

    def find_first(self, most: int) -> int:
        """Return how many rounds must go at least for a prompt of ``most`` tokens; all but the last at most.

        To encode the conversation again for each round that goes takes time with the square of its length:
        16 s for a megabyte. But what a round takes is nearly the same whatever stands before it. So every
        message is encoded once, the sums of their tokens say where the boundary is, and there it is looked
        at exactly: most often with two prompts that are about as long as what fits. A guess that is wrong,
        because a template writes more around one message than around another, costs some steps more and
        changes nothing.
        """
        last = len(self.starts) - 1
        # Whole first: nearly every conversation fits, and what a template refuses is refused as a whole.
        if last == 0 or len(self.encode(0)) <= most:
            return 0
        if last == 1 or len(self.encode(last)) > most:
            return last  # no prompt is shorter than the one of the last question
        removed = self._estimate_removed(last)
        guess = bisect.bisect_left(removed, len(self.encode(0)) - most)
        return _find_boundary(lambda dropped: len(self.encode(dropped)) <= most, guess, last)

    def _estimate_removed(self, last: int) -> list[float]:
        """Return about how many tokens go with the first 0, 1, 2, … ``last`` rounds."""
        texts = []
        for message in self._rest[: self.starts[last]]:
            self._check()
            calls = sum(len(self._tokenizer.encode(call.arguments)) for call in message.tool_calls)
            texts.append(len(self._tokenizer.encode(message.content)) + calls)
        # What formats write around messages, the same for each. Exact at both ends: of all rounds together
        # it is known what they take.
        around = (len(self.encode(0)) - len(self.encode(last)) - sum(texts)) / len(texts)
        sums = list(itertools.accumulate((text + around for text in texts), initial=0.0))
        return [sums[start] for start in self.starts]


def _find_boundary(fits: Callable[[int], bool], guess: int, last: int) -> int:
    """Return the first number that fits, from 1 to ``last``; where none does, ``last``.

    Args:
        fits: ``False`` up to some number and ``True`` from there on; 0 does not fit.
        guess: where the boundary probably is. The nearer, the fewer numbers are asked for.
        last: 2 or more.
    """
    guess, step = min(max(guess, 1), last - 1), 1
    # Away from the guess in steps that double, until the boundary lies between two numbers, then halves.
    if fits(guess):
        high = guess
        while high - step > 0 and fits(high - step):
            high, step = high - step, 2 * step
        low = max(high - step, 0)
    else:
        low = guess
        while low + step < last and not fits(low + step):
            low, step = low + step, 2 * step
        high = min(low + step, last)
    return bisect.bisect_left(range(last + 1), True, low + 1, high, key=fits)


def fit_text(
    tokenizer: ChatTokenizer,
    text: str | Sequence[int],
    sampling: Sampling,
    *,
    requested: Sampling,
    capacity: int,
) -> Prompt:
    """Encode bare text for the model to go on from, or take token ids as they are.

    Arguments as for `fit_prompt`.

    Raises:
        RequestError: there are too many tokens, or one is not in the vocabulary.
    """
    limit = _find_limit(sampling, requested, capacity)
    if isinstance(text, str):
        return _make_prompt(tokenizer.encode_completion(text), limit, sampling, 0, "prompt")
    if max(text) >= tokenizer.vocab_size:
        raise RequestError(
            f"the prompt holds token id {max(text)}; the vocabulary ends at {tokenizer.vocab_size - 1}"
        )
    return _make_prompt(text, limit, sampling, 0, "prompt")


def _encode(tokenizer: ChatTokenizer, messages: Sequence[Message], tools: Sequence[Tool]) -> list[int]:
    if not tools:
        return tokenizer.encode_chat(messages)
    if not isinstance(tokenizer, ToolTokenizer):
        raise RequestError("the model has no format for tools; leave them out")
    return tokenizer.encode_chat(messages, tools)


def _find_limit(sampling: Sampling, requested: Sampling, capacity: int) -> int:
    if requested.max_new_tokens is not None and requested.max_length is None:
        return capacity
    return min(sampling.max_length or capacity, capacity)


def _make_prompt(
    token_ids: Sequence[int], limit: int, sampling: Sampling, dropped_messages: int, what: str
) -> Prompt:
    if len(token_ids) >= limit and limit == sampling.max_length:
        raise RequestError(
            f"the {what} has {len(token_ids)} tokens; with max_length {limit} at most {limit - 1} fit. "
            "Shorten it or raise max_length."
        )
    if len(token_ids) >= limit:
        raise RequestError(
            f"the {what} has {len(token_ids)} tokens; {limit} is the room for it and its answer here, beside "
            "its adapter if it has one. Shorten it, or start with a larger --context-length."
        )
    left = limit - len(token_ids)
    return Prompt(tuple(token_ids), min(sampling.max_new_tokens or left, left), dropped_messages)
