"""What every family shares of attention: the visibility mask and where keys and values go.

Axes: B batch · T new tokens · S key positions · G key/value heads · H head dim · L layers
"""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor


class KeyValueStore(Protocol):
    """Where a layer puts its new keys and values and finds the earlier ones.

    The slotted KV cache of the engine, a prefix in front of a training batch and the cache
    objects of transformers all answer this one call, so a layer never knows which it has.
    """

    def update(self, keys: Tensor, values: Tensor, layer: int) -> tuple[Tensor, Tensor]:
        """Take new ``[B, G, T, H]`` and return all ``[B, G, S, H]`` that queries may look at."""
        ...


def visibility_mask(
    query_index: Tensor, bidirectional: Tensor, num_keys: int, key_padding: Tensor | None = None
) -> Tensor:
    """Which keys each query sees: the bidirectional front, and everything up to itself.

    Args:
        query_index: ``[B, T]`` int64, index of each query among the keys.
        bidirectional: ``[B]`` int64, how many leading keys every query of the row sees
            (the context of a prefix language model and a P-Tuning prefix; 0 if causal).
        num_keys: S.
        key_padding: ``[B, S]`` bool, True where the key is padding.

    Returns:
        ``[B, 1, T, S]`` bool, True = visible (the convention of
        ``scaled_dot_product_attention``). A query that would see nothing, a padding query,
        sees everything: softmax over no key is NaN, and NaN spreads through the batch.
    """
    keys = torch.arange(num_keys, device=query_index.device)
    visible = (keys < bidirectional.view(-1, 1, 1)) | (keys <= query_index.unsqueeze(-1))  # [B, T, S]
    if key_padding is not None:
        visible &= ~key_padding.unsqueeze(1)
        visible |= ~visible.any(dim=-1, keepdim=True)
    return visible.unsqueeze(1)  # [B, 1, T, S]
