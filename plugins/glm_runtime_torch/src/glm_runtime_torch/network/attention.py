"""Attention as every family shares it: visibility, where keys and values go, and the product itself.

Axes: B batch · T new tokens · S key positions · N query heads · G key/value heads · H head dim
      L layers
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

from .rotary import Rotary


class KeyValueStore(Protocol):
    """Where a layer puts its new keys and values and finds the earlier ones.

    A prefix in front of a training batch and the cache objects of transformers answer this call.
    """

    def update(self, keys: Tensor, values: Tensor, layer: int) -> tuple[Tensor, Tensor]:
        """Take new ``[B, G, T, H]`` and return all ``[B, G, S, H]`` that queries may look at."""
        ...


class AttendingStore(ABC):
    """A store that attends by itself, so that rows of different lengths need no common shape."""

    @abstractmethod
    def attend(self, q: Tensor, k: Tensor, v: Tensor, rotary: Rotary, layer: int) -> Tensor:
        """Rotate q ``[B, N, T, H]`` and k, keep k and v ``[B, G, T, H]``; return ``[B, T, N * H]``."""


RowNumbers = Sequence[int] | Tensor
"""A whole number for each row of a decode step; on a device that replays captured steps an int64 tensor."""


class DecodeAttention(Protocol):
    """One decode step's attention over the slotted cache; a backend may bring its own.

    The result of a row must not depend on the other rows, bit for bit. One that can be captured and
    replayed says ``takes_tensors = True``: it gets ``slots`` and ``lengths`` as int64 tensors ``[B]`` on
    the device of ``q``, never reads them from Python, and takes rows of length 0 as padding, for which
    nothing is stored and the result is any finite number.
    """

    def decode(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        cos: Tensor,
        sin: Tensor,
        keys: Tensor,
        values: Tensor,
        slots: Sequence[int],
        lengths: Sequence[int],
    ) -> Tensor:
        """Store the rotated new key and the value of each row, then attend to all its positions.

        Args:
            q: ``[B, N, 1, H]``, not rotated yet; any strides.
            k: ``[B, G, 1, H]``, likewise.
            v: ``[B, G, 1, H]``.
            cos: ``[B, 1, 1, R, H/R]``, see `glm_runtime_torch.network.rotary`.
            sin: the same shape.
            keys: ``[slots, G, capacity, H]``, this layer's.
            values: the same shape.
            slots: slot of each row.
            lengths: positions of each row, the new one included; it is stored at the last of them.

        Returns:
            ``[B, 1, N * H]``.
        """
        ...


def takes_tensors(attention: DecodeAttention) -> bool:
    """Return whether an attention wants `RowNumbers` as tensors; see `DecodeAttention`."""
    return bool(getattr(attention, "takes_tensors", False))


class TorchDecodeAttention:
    """`DecodeAttention` in plain PyTorch, row by row: exact, and nothing is gathered or padded."""

    def decode(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        cos: Tensor,
        sin: Tensor,
        keys: Tensor,
        values: Tensor,
        slots: Sequence[int],
        lengths: Sequence[int],
    ) -> Tensor:
        """See `DecodeAttention.decode`."""
        rotary = Rotary(cos, sin)
        q, k = rotary.rotate(q), rotary.rotate(k)
        rows = []
        for row, (slot, length) in enumerate(zip(slots, lengths, strict=True)):
            keys[slot, :, length - 1], values[slot, :, length - 1] = k[row, :, 0], v[row, :, 0]
            seen = keys[slot : slot + 1, :, :length], values[slot : slot + 1, :, :length]
            rows.append(compute_attention(q[row : row + 1], *seen))
        return torch.cat(rows)


def attend(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    rotary: Rotary,
    layer: int,
    mask: Tensor | None = None,
    store: KeyValueStore | AttendingStore | None = None,
) -> Tensor:
    """Rotate, store and attend, wherever the earlier keys are.

    Args:
        q: ``[B, N, T, H]``, not rotated yet.
        k: ``[B, G, T, H]``, likewise.
        v: ``[B, G, T, H]``.
        rotary: of the T tokens.
        layer: number of the layer.
        mask: ``[B, 1, T, S]`` bool, True = visible; ``None`` = every key is.
        store: earlier keys and values; ``None`` for a single pass without a cache.

    Returns:
        ``[B, T, N * H]``.
    """
    if isinstance(store, AttendingStore):
        return store.attend(q, k, v, rotary, layer)
    q, k = rotary.rotate(q), rotary.rotate(k)
    if store is not None:
        k, v = store.update(k, v, layer)
    return compute_attention(q, k, v, mask)


def compute_attention(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
    """Return softmax attention ``[B, T, N * H]`` of q ``[B, N, T, H]`` over k, v ``[B, G, S, H]``."""
    context = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, enable_gqa=k.shape[1] != q.shape[1])
    return context.transpose(1, 2).flatten(2)


def build_visibility_mask(
    query_index: Tensor, bidirectional: Tensor, num_keys: int, key_padding: Tensor | None = None
) -> Tensor:
    """Return which keys each query sees: the bidirectional front, and everything up to itself.

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
