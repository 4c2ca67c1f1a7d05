"""What is read of a ``generation_config.json``: default sampling, and the tokens that end an answer."""

from __future__ import annotations

from typing import Annotated

from .published_sizes import MAX_CONTEXT_LENGTH, MAX_VOCABULARY, TokenIds
from .record_file import FileRecord, limit_integer, limit_number


class EndsFile(FileRecord):
    """The tokens that end an answer, which ``config.json`` names under the same key."""

    eos_token_id: TokenIds | None = None


class SamplingFile(FileRecord):
    """Default sampling, each key as `glm_core.Sampling` has it; null leaves it to the family."""

    max_new_tokens: Annotated[int, limit_integer(1, MAX_CONTEXT_LENGTH)] | None = None
    max_length: Annotated[int, limit_integer(1, MAX_CONTEXT_LENGTH)] | None = None
    temperature: Annotated[float, limit_number(0, 1000)] | None = None
    top_p: Annotated[float, limit_number(0, 1)] | None = None
    top_k: Annotated[int, limit_integer(0, MAX_VOCABULARY)] | None = None
    repetition_penalty: Annotated[float, limit_number(0.001, 1000)] | None = None
    presence_penalty: Annotated[float, limit_number(-2, 2)] | None = None
    frequency_penalty: Annotated[float, limit_number(-2, 2)] | None = None
    do_sample: bool | None = None
    ignore_eos: bool | None = None
