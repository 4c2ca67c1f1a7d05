"""What computes a step; a backend may bring its own, such as a recorded one.

Axes: B batch · k new tokens of a row · V vocabulary
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor

from ..network.kv_cache import KVCache
from ..network.language_model import LanguageModel
from .step import StepInput


class DecodeExecutor(Protocol):
    """Computes steps of one network over one KV cache, always on the engine's thread.

    Attributes:
        max_tokens: most tokens of a row that one call takes; the engine splits steps of more.
            ``None`` = any number.
    """

    max_tokens: int | None

    def decode(self, step: StepInput) -> Tensor:
        """Feed k tokens a row and return the logits after each.

        Adapters that act in the step are in force already; one that cannot compute with layers that
        change between steps must leave such steps to an `EagerExecutor`.

        Returns:
            ``[B, k, V]``; may be overwritten by the next step.
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

    max_tokens: int | None = None

    def __init__(self, network: LanguageModel, cache: KVCache, device: torch.device) -> None:
        self._network = network
        self._cache = cache
        self._device = device

    def decode(self, step: StepInput) -> Tensor:
        """See `DecodeExecutor.decode`."""
        return self._network.decode(
            torch.tensor(step.token_ids, device=self._device),
            step.position_ids.to(self._device),
            self._cache.select_decode_rows(step.slots, step.lengths),
        )
