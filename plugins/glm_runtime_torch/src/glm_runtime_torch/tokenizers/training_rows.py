"""What a conversation and its answer are as tokens to learn from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, runtime_checkable

if TYPE_CHECKING:
    from glm_core import Message


@dataclass(frozen=True)
class TrainingIds:
    """One example.

    Attributes:
        token_ids: of prompt and answer, control tokens included, cut to the lengths asked for.
        prompt_length: how many of them are the prompt, as a chat would send it.
        first_target: index of the first token that is learnt; all after it are too.
        source_length: tokens of the prompt before anything was cut.
        target_length: tokens of the answer before anything was cut.
        source_cut: whether the prompt was.
        target_cut: whether the answer was.
    """

    token_ids: list[int]
    prompt_length: int
    first_target: int
    source_length: int
    target_length: int
    source_cut: bool
    target_cut: bool


@runtime_checkable
class TrainingTokenizer(Protocol):
    """A tokenizer whose family can be trained."""

    pad_token_id: int

    def encode_training_row(
        self, messages: Sequence[Message], answer: str, max_source_length: int, max_target_length: int
    ) -> TrainingIds:
        """Return a conversation and its answer as the family's original trainer lays them out.

        Args:
            messages: end in a user's message.
            answer: what to learn.
            max_source_length: tokens of the prompt; see the families for which control tokens count.
            max_target_length: tokens of the answer, likewise.
        """
        ...


def join_prompt_and_answer(
    prompt: Sequence[int],
    answer: Sequence[int],
    end: int,
    max_source_length: int,
    max_target_length: int,
    *,
    kept_at_end: int = 0,
) -> TrainingIds:
    """Return the layout of the causal families: prompt with its control tokens, answer, end token.

    Args:
        prompt: ids, control tokens included; they count for ``max_source_length``.
        answer: ids without control tokens.
        end: id of the token that ends an answer; it does not count for ``max_target_length``.
        max_source_length: what is longer loses its end.
        max_target_length: likewise.
        kept_at_end: trailing tokens of the prompt that are kept whatever is cut before them.
    """
    tail = list(prompt[len(prompt) - kept_at_end :])
    source = [*prompt[: max(min(len(prompt), max_source_length) - kept_at_end, 0)], *tail]
    target = list(answer[:max_target_length])
    return TrainingIds(
        token_ids=[*source, *target, end],
        prompt_length=len(source),
        first_target=len(source),
        source_length=len(prompt),
        target_length=len(answer),
        source_cut=len(source) < len(prompt),
        target_cut=len(target) < len(answer),
    )
