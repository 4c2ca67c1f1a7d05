"""Fitting a conversation into the length that a request may use."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from glm_core import Message, RequestError, Sampling

from ..tokenizers import ChatTokenizer

# Room kept for the answer while history is dropped, if the request names none.
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
    wanted: Sampling,
    capacity: int,
) -> Prompt:
    """Encode a conversation, leaving out its oldest rounds until an answer fits as well.

    System messages and the last question always stay.

    Args:
        tokenizer: encodes whole conversations.
        messages: the conversation.
        sampling: every field set.
        wanted: what the request itself said: a ``max_new_tokens`` there without a ``max_length``
            lifts the default total, as in transformers.
        capacity: tokens that one sequence may have here at all.

    Raises:
        RequestError: the last question alone is too long.
    """
    limit = _limit(sampling, wanted, capacity)
    room = min(sampling.max_new_tokens or DEFAULT_ANSWER_ROOM, max(1, limit // 4))
    system = [message for message in messages if message.role == "system"]
    rest = [message for message in messages if message.role != "system"]
    dropped = 0
    while True:
        token_ids = tokenizer.chat_prompt([*system, *rest[dropped:]])
        if len(token_ids) + room <= limit:
            break
        following = next((i for i in range(dropped + 1, len(rest)) if rest[i].role == "user"), None)
        if following is None:
            break
        dropped = following
    return _ending(token_ids, limit, sampling, dropped, "question")


def fit_text(
    tokenizer: ChatTokenizer, text: str, sampling: Sampling, *, wanted: Sampling, capacity: int
) -> Prompt:
    """Encode bare text that the model shall go on from; arguments as for `fit_prompt`.

    Raises:
        RequestError: the text is too long.
    """
    limit = _limit(sampling, wanted, capacity)
    return _ending(tokenizer.completion_prompt(text), limit, sampling, 0, "prompt")


def _limit(sampling: Sampling, wanted: Sampling, capacity: int) -> int:
    if wanted.max_new_tokens is not None and wanted.max_length is None:
        return capacity
    return min(sampling.max_length or capacity, capacity)


def _ending(
    token_ids: Sequence[int], limit: int, sampling: Sampling, dropped_messages: int, what: str
) -> Prompt:
    if len(token_ids) >= limit:
        raise RequestError(
            f"the {what} has {len(token_ids)} tokens; with max_length {limit} at most {limit - 1} fit. "
            "Shorten it or raise max_length."
        )
    left = limit - len(token_ids)
    return Prompt(tuple(token_ids), min(sampling.max_new_tokens or left, left), dropped_messages)
