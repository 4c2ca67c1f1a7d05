"""From a request to the tokens of its prompt: the model's chat template, and history that fits."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass

from glm_core import ChatRequest, Message, RequestError, Sampling

from ._fitting import find_first_round
from ._vocabulary import Vocabulary

_ANSWER_ROOM = 256
"""Tokens kept free for the answer while history is dropped, where the request names no number."""

_PLAIN_NAMES = {"system": "System", "user": "User", "assistant": "Assistant"}
_PLAIN_STOP = "\nUser:"
"""Where a model without a template begins to speak for the user."""


@dataclass(frozen=True)
class Prompt:
    """A prompt that fits.

    Attributes:
        token_ids: ready to prefill.
        max_new_tokens: how long the answer may get.
        stop: strings that end it, those of the format included.
        dropped_messages: how many of the oldest messages were left out.
    """

    token_ids: tuple[int, ...]
    max_new_tokens: int
    stop: tuple[str, ...]
    dropped_messages: int = 0


def make_prompt(
    vocabulary: Vocabulary, request: ChatRequest, sampling: Sampling, context_length: int
) -> Prompt:
    """Turn a request into tokens.

    A conversation that is too long loses its oldest rounds, a question and its answer at a time;
    system messages and the last question always stay.

    Args:
        vocabulary: the model's.
        request: what is asked.
        sampling: the request's sampling, every field but ``max_new_tokens`` set.
        context_length: tokens of prompt and answer together.

    Raises:
        RequestError: the question alone does not fit, or the template refuses the conversation.
    """
    limit = _sum_lengths(request.sampling, sampling, context_length)
    if request.prompt is not None:
        token_ids = _encode_text(vocabulary, request.prompt)
        return _finish(token_ids, limit, sampling, request.stop)
    system = [message for message in request.messages if message.role == "system"]
    rest = [message for message in request.messages if message.role != "system"]
    # Where the limit itself is small, an answer of a quarter of it must do.
    room = min(sampling.max_new_tokens or _ANSWER_ROOM, max(1, limit // 4))
    starts = [number for number, message in enumerate(rest) if number == 0 or message.role == "user"] or [0]

    @functools.cache
    def encode(rounds: int) -> list[int]:
        return encode_chat(vocabulary, [*system, *rest[starts[rounds] :]])

    def measure() -> list[int]:
        return [len(vocabulary.encode(message.content, special=False)) for message in rest]

    first = find_first_round(lambda rounds: len(encode(rounds)), measure, starts, limit - room)
    token_ids, dropped = encode(first), starts[first]
    stop = request.stop if vocabulary.template else (*request.stop, _PLAIN_STOP)
    return _finish(token_ids, limit, sampling, stop, dropped)


def encode_chat(vocabulary: Vocabulary, messages: Sequence[Message]) -> list[int]:
    """Return the tokens of a conversation, up to where the model's answer begins.

    A file without a chat template gets the names of the speakers in front of their lines, which
    models without training for conversations go on best from.

    Raises:
        RequestError: the template refuses the conversation, such as one with a system message, or took more
            than its bounds.
    """
    if vocabulary.template is None:
        lines = [f"{_PLAIN_NAMES[message.role]}: {message.content}" for message in messages]
        return vocabulary.encode("\n".join([*lines, "Assistant:"]), special=False)
    text = vocabulary.template.render([{"role": each.role, "content": each.content} for each in messages])
    # Control tokens are written as text by the template, so they are read from the text here.
    return vocabulary.encode(text, special=True)


def _encode_text(vocabulary: Vocabulary, prompt: str | tuple[int, ...]) -> list[int]:
    """Return the tokens of bare text, or of token ids that are in the vocabulary."""
    if isinstance(prompt, str):
        return vocabulary.encode(prompt, special=False)
    if max(prompt, default=0) >= vocabulary.size:
        raise RequestError(
            f"the prompt holds token id {max(prompt)}; the vocabulary ends at {vocabulary.size - 1}"
        )
    return list(prompt)


def _sum_lengths(wanted: Sampling, sampling: Sampling, context_length: int) -> int:
    """Return how many tokens prompt and answer may have together.

    A request that names ``max_new_tokens`` alone means just that: the model's default of the total is
    then no limit.
    """
    if wanted.max_new_tokens is not None and wanted.max_length is None:
        return context_length
    return min(sampling.max_length or context_length, context_length)


def _finish(
    token_ids: Sequence[int], limit: int, sampling: Sampling, stop: tuple[str, ...], dropped: int = 0
) -> Prompt:
    if not token_ids:
        raise RequestError("the prompt is empty; a model can only go on from something")
    if len(token_ids) >= limit:
        raise RequestError(
            f"the question has {len(token_ids)} tokens; {limit} is the room for it and its answer. Shorten "
            "it, raise max_length, or start with a larger --context-length."
        )
    left = limit - len(token_ids)
    return Prompt(tuple(token_ids), min(sampling.max_new_tokens or left, left), stop, dropped)
