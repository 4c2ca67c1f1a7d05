"""Texts of a row as the original's prediction takes them: the question, and the answer to compare with."""

from __future__ import annotations

from typing import Any

from ._data import Row


def encode_question(
    tokenizer: Any, row: Row, *, max_source_length: int, source_prefix: str = ""
) -> tuple[int, ...]:
    """Return ids of a row's question and history, ready to prefill.

    Args:
        tokenizer: of the model; both a ``ChatTokenizer`` and a ``TrainingTokenizer``.
        row: question and history.
        max_source_length: tokens of the question; what is longer loses its end, as in training.
        source_prefix: stands before everything.
    """
    example = tokenizer.encode_training_row(row.build_messages(source_prefix), "", max_source_length, 2)
    end = example.first_target
    # ChatGLM-6B also learns the token that its prompts end with.
    if example.token_ids[end - 1 : end + 1] == tokenizer.encode_completion(""):
        end += 1
    return tuple(example.token_ids[:end])


def cut_answer(tokenizer: Any, text: str, max_target_length: int) -> tuple[str, bool]:
    """Return what the original compares answers with, and whether it is less than the expected answer.

    That is the expected answer cut to tokens, and decoded again.

    Args:
        tokenizer: of the model.
        text: the expected answer.
        max_target_length: tokens, those included that the tokenizer puts around any text (two).
    """
    kept = max(max_target_length - len(tokenizer.encode_completion("")), 0)
    token_ids = tokenizer.encode(text)
    return tokenizer.decode(token_ids[:kept]), len(token_ids) > kept
