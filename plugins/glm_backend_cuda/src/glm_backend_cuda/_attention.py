"""Decode attention over tensors of slots and lengths, so that a step can be captured and replayed.

Axes: B rows · N query heads · G key/value heads · H head dim · R rotated parts of a head
"""

from __future__ import annotations

import torch
from glm_runtime_torch.backends import Rotary, RowNumbers, compute_attention
from torch import Tensor


class TorchDeviceAttention:
    """`glm_runtime_torch.backends.DecodeAttention` in plain PyTorch that can be captured.

    Only the device knows the lengths while a recording runs, so each row attends over its whole slot with a
    mask. Rows are computed one after the other, each with the same operations as alone.
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
        """Implement `DecodeAttention.decode`; a row of length 0 stores nothing."""
        slots, lengths = make_row_tensor(slots, q.device), make_row_tensor(lengths, q.device)
        rotary = Rotary(cos, sin)
        q, k = rotary.rotate(q), rotary.rotate(k)
        positions = torch.arange(keys.shape[2], device=q.device)
        rows = []
        for row in range(len(q)):
            slot, length = slots[row : row + 1], lengths[row : row + 1]
            place = (length - 1).clamp(min=0)
            for stored, new in ((keys, k), (values, v)):
                # A row of padding writes the value that is there already: a graph cannot skip an operation.
                value = torch.where(length > 0, new[row, :, 0].to(stored.dtype), stored[slot, :, place][0])
                stored.index_put_((slot, torch.arange(stored.shape[1], device=q.device), place), value)
            seen = (positions < length.clamp(min=1)).view(1, 1, 1, -1)
            # Behind the length there may be anything, and not-a-number times a weight of 0 is not-a-number.
            own_keys, own_values = (
                stored.index_select(0, slot).masked_fill(~seen.view(1, 1, -1, 1), 0)
                for stored in (keys, values)
            )
            rows.append(compute_attention(q[row : row + 1], own_keys, own_values, seen))
        return torch.cat(rows)


def make_row_tensor(numbers: RowNumbers, device: torch.device) -> Tensor:
    """Return slots or lengths as an int64 tensor on the device."""
    return numbers if isinstance(numbers, Tensor) else torch.tensor(list(numbers), device=device)


def choose_chunk_size(capacity: int, num_kv_heads: int) -> int:
    """Return how many positions one program takes.

    The cache's shape alone decides, so that a row's bits do not depend on its batch.
    """
    # With 32 key heads, 256 positions make 256 programs of a conversation of 2,048, about two for each
    # multiprocessor of a large GPU. With 2 key heads it takes shorter chunks to keep a GPU busy.
    size = 256 if num_kv_heads >= 8 else 64
    while capacity > 128 * size:  # chunks are added up one by one, which takes long for more than 128
        size *= 2
    return size
