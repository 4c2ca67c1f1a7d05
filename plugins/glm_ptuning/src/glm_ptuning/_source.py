"""Encoding a question exactly as training lays it out in front of the answer."""

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
