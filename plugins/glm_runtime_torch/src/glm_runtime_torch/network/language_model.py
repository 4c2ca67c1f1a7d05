"""What the engine and the reports ask of any family's network."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from .attention import AttendingStore
from .kv_cache import PrefillRows
from .layout import Layout


class LanguageModel(Protocol):
    """What the engine needs of a network; axes as in the architectures' modules."""

    def prefill(
        self, input_ids: Tensor, position_ids: Tensor, rows: PrefillRows, chunk_size: int
    ) -> Generator[None, None, Tensor]:
        """Take in one prompt, pausing after every bounded piece of work.

        How a prompt is cut depends on its length alone, so the same prompt gives the same bits
        however busy the engine is.

        Args:
            input_ids: ``[1, T]`` int64.
            position_ids: ``[1, R, T]`` int64.
            rows: where keys and values go.
            chunk_size: tokens that pass one block between two pauses at most.

        Returns:
            Logits ``[1, V]`` of the last token.
        """
        ...

    def decode(self, input_ids: Tensor, position_ids: Tensor, rows: AttendingStore) -> Tensor:
        """Feed T tokens a row, ``[B, T]`` at ``[B, R, T]``; return the logits ``[B, T, V]`` after each."""
        ...

    def layout(self, prompt: Sequence[int]) -> Layout:
        """Where the tokens of a sequence that begins with ``prompt`` stand."""
        ...


@dataclass(frozen=True)
class Dimensions:
    """What caches, prefixes, checks and reports need of any family's configuration.

    Attributes:
        context_length: tokens that one request may use unless the user says otherwise.
    """

    num_layers: int
    num_kv_heads: int
    head_dim: int
    vocab_size: int
    context_length: int
    eos_token_id: int
