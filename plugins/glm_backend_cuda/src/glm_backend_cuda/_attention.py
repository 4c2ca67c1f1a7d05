"""Decode attention over tensors of slots and lengths, so that a step can be captured and replayed.

Axes: B rows · N query heads · G key/value heads · H head dim · R blocks that positions turn
"""

from __future__ import annotations

import torch
from glm_runtime_torch.backends import Rotary, RowNumbers, compute_attention
from torch import Tensor


class TorchDeviceAttention:
    """`glm_runtime_torch.backends.DecodeAttention` in plain PyTorch that can be captured.

    Nothing tells PyTorch a length that only the device knows, so each row attends over its whole slot with
    a mask. Rows are worked on one after the other, each with the same operations as alone.
    """

    takes_tensors = True

    def decode(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        cos: Tensor,
        sin: Tensor,
        keys: Tensor,
        values: Tensor,
        slots: RowNumbers,
        lengths: RowNumbers,
    ) -> Tensor:
        """See `DecodeAttention.decode`; a row of length 0 stores nothing."""
        slots, lengths = row_numbers(slots, q.device), row_numbers(lengths, q.device)
        rotary = Rotary(cos, sin)
        q, k = rotary.rotate(q), rotary.rotate(k)
        positions = torch.arange(keys.shape[2], device=q.device)
        rows = []
        for row in range(len(q)):
            slot, length = slots[row : row + 1], lengths[row : row + 1]
            place = (length - 1).clamp(min=0)
            for stored, new in ((keys, k), (values, v)):
                # Padding writes what is there already: a graph cannot leave an operation out.
                value = torch.where(length > 0, new[row, :, 0].to(stored.dtype), stored[slot, :, place][0])
                stored.index_put_((slot, torch.arange(stored.shape[1], device=q.device), place), value)
            seen = (positions < length.clamp(min=1)).view(1, 1, 1, -1)
            # What stands behind the length may be anything, and not-a-number passes through a mask.
            own_keys, own_values = (
                stored.index_select(0, slot).masked_fill(~seen.view(1, 1, -1, 1), 0)
                for stored in (keys, values)
            )
            rows.append(compute_attention(q[row : row + 1], own_keys, own_values, seen))
        return torch.cat(rows)


def row_numbers(numbers: RowNumbers, device: torch.device) -> Tensor:
    """Return slots or lengths as an int64 tensor on the device."""
    return numbers if isinstance(numbers, Tensor) else torch.tensor(list(numbers), device=device)


def chunk_size(capacity: int, num_kv_heads: int) -> int:
    """Return how many positions one program takes.

    The cache's shape alone decides, so that a row's bits do not depend on its batch. With 32 key heads, 256
    positions make 256 programs of a conversation of 2,048; with 2 key heads it takes shorter chunks to keep a
    GPU busy. No more than 128 chunks, whose results are added up one by one.
    """
    size = 256 if num_kv_heads >= 8 else 64
    while capacity > 128 * size:
        size *= 2
    return size
