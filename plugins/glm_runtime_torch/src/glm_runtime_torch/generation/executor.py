"""What computes one decode step; a backend may bring its own, such as a captured one.

Axes: B batch · R position rows · V vocabulary
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

import torch
from torch import Tensor

from ..network.kv_cache import KVCache
from ..network.language_model import LanguageModel


class DecodeExecutor(Protocol):
    """Computes decode steps of one network over one KV cache, always on the engine's thread."""

    def decode(
        self, token_ids: Sequence[int], position_ids: Tensor, slots: Sequence[int], lengths: Sequence[int]
    ) -> Tensor:
        """Feed one token a row and return the logits of the next ones.

        A step may be repeated: the same keys and values are written to the same places again.

        Args:
            token_ids: B of them.
            position_ids: ``[B, R]`` int64 on the CPU.
            slots: slot of each row.
            lengths: positions of each row, the new token's included.

        Returns:
            ``[B, V]``; may be overwritten by the next step.
        """
        ...


MakeExecutor = Callable[[LanguageModel, KVCache], DecodeExecutor]


class EagerExecutor:
    """Calls the network, operation by operation.

    Args:
        network: in evaluation mode.
        cache: of the same sizes.
        device: where the network takes its inputs.
    """

    def __init__(self, network: LanguageModel, cache: KVCache, device: torch.device) -> None:
        self._network = network
        self._cache = cache
        self._device = device

    def decode(
        self, token_ids: Sequence[int], position_ids: Tensor, slots: Sequence[int], lengths: Sequence[int]
    ) -> Tensor:
        """See `DecodeExecutor.decode`."""
        return self._network.decode(
            torch.tensor(token_ids, device=self._device).unsqueeze(1),
            position_ids.unsqueeze(2).to(self._device),
            self._cache.decode_rows(slots, lengths),
        )
