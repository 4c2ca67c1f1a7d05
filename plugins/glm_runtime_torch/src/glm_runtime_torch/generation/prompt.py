"""Fitting a conversation into the length that a request may use."""

from __future__ import annotations

from collections.abc import Sequence
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
) -> Prompt:
    """Encode a conversation, leaving out its oldest rounds until an answer fits as well.

    System messages, tools and the last question always stay. A round begins with a question, so a
    tool's call and its answer stay or go together.

    Args:
        tokenizer: encodes whole conversations.
        messages: the conversation.
        sampling: every field set.
        requested: what the request itself set: a ``max_new_tokens`` there without a ``max_length``
            lifts the default total, as in transformers.
        capacity: tokens that one sequence may have here at all, beside its adapter.
        tools: what the model may call.

    Raises:
        RequestError: the last question alone is too long, or the family knows no tools.
    """
    limit = _find_limit(sampling, requested, capacity)
    room = min(sampling.max_new_tokens or DEFAULT_ANSWER_ROOM, max(1, limit // 4))
    system = [message for message in messages if message.role == "system"]
    rest = [message for message in messages if message.role != "system"]
    dropped = 0
    while True:
        token_ids = _encode(tokenizer, [*system, *rest[dropped:]], tools)
        if len(token_ids) + room <= limit:
            break
        following = next((i for i in range(dropped + 1, len(rest)) if rest[i].role == "user"), None)
        if following is None:
            break
        dropped = following
    what = "question" if messages[-1].role == "user" else "question with its tool calls and their answers"
    return _make_prompt(token_ids, limit, sampling, dropped, what)


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
