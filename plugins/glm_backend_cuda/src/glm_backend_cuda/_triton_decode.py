"""Launching the decode attention kernels.

Axes: B rows · N query heads · G key/value heads · H head dim · R blocks that positions turn
"""

from __future__ import annotations

import math

import torch
import triton
from glm_runtime_torch.backends import RowNumbers
from torch import Tensor

from ._attention import choose_chunk_size, make_row_tensor
from ._layers import has_tensor_cores
from ._tensors import use_device_of
from ._triton_attention import LOG2_E, chunk_kernel, join_kernel

DOT_ROWS = 16  # the least that tensor cores take
# 32 positions of 128 channels in 16 bits are 8 KiB of keys and as many of values; with three stages
# 32 KiB are on their way in every program.
POSITIONS = 32
POSITIONS_PLAIN = 16  # without tensor cores the product of many queries needs the registers


class TritonDecodeAttention:
    """`glm_runtime_torch.backends.DecodeAttention` on Triton kernels; see `decode_attention`."""

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
        """See `DecodeAttention.decode`; a row of length 0 gives zeros."""
        return decode_attention(
            q,
            k,
            v,
            cos,
            sin,
            keys,
            values,
            make_row_tensor(slots, q.device),
            make_row_tensor(lengths, q.device),
        )


def decode_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    cos: Tensor | None,
    sin: Tensor | None,
    keys: Tensor,
    values: Tensor,
    slots: Tensor,
    lengths: Tensor,
) -> Tensor:
    """Store the rotated new key and the value of each row, then attend to all its positions.

    Scores and sums are float32; the rotated query and key are rounded once. Neither ``slots`` nor
    ``lengths`` is read from the host, and neither is checked.

    Args:
        q: ``[B, N, 1, H]``, not rotated yet; any strides.
        k: ``[B, G, 1, H]``, likewise.
        v: ``[B, G, 1, H]``.
        cos: ``[B, 1, 1, R, H/R]``; ``None`` rotates nothing.
        sin: the same shape.
        keys: ``[slots, G, capacity, H]``, contiguous in the last two axes.
        values: the same shape and strides.
        slots: ``[B]`` integers.
        lengths: ``[B]`` integers, at most the capacity; 0 stores nothing and gives zeros.

    Returns:
        ``[B, 1, N * H]``.

    Raises:
        ValueError: the cache's layout is another.
    """
    if keys.stride() != values.stride() or keys.stride()[2:] != (q.shape[3], 1):
        raise ValueError(
            f"the cache must be contiguous in positions and channels, got strides {keys.stride()}"
        )
    q, k, v = (tensor if tensor.stride(-1) == 1 else tensor.contiguous() for tensor in (q, k, v))
    if cos is None or sin is None:
        return _launch(q, k, v, q, q, keys, values, slots, lengths, rotated=0)
    angles = cos.contiguous(), sin.contiguous()
    return _launch(q, k, v, *angles, keys, values, slots, lengths, rotated=cos.shape[-1])


def _launch(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    cos: Tensor,
    sin: Tensor,
    keys: Tensor,
    values: Tensor,
    slots: Tensor,
    lengths: Tensor,
    *,
    rotated: int,
) -> Tensor:
    B, N, _, H = q.shape
    G, capacity = keys.shape[1], keys.shape[2]
    heads, block_h = N // G, max(16, triton.next_power_of_2(H))
    size = choose_chunk_size(capacity, G)
    chunks = -(-capacity // size)
    plain = heads > 1 and (q.dtype == torch.float32 or not has_tensor_cores(q.device))
    maxima, sums = torch.empty(2, B, N, chunks, dtype=torch.float32, device=q.device)
    contexts = torch.empty(B, N, chunks, H, dtype=torch.float32, device=q.device)
    out = torch.empty(B, 1, N * H, dtype=q.dtype, device=q.device)
    with use_device_of(q):
        chunk_kernel[(B, G, chunks)](
            *(q, k, v, cos, sin, keys, values, slots, lengths, maxima, sums, contexts),
            *q.stride()[:2],
            *k.stride()[:2],
            *v.stride()[:2],
            *keys.stride()[:2],
            LOG2_E / math.sqrt(H),
            HEADS=heads,
            QUERIES=1 if heads == 1 else max(DOT_ROWS, triton.next_power_of_2(heads)),
            H=H,
            BLOCK_H=block_h,
            ROTATED=rotated,
            CHUNK=size,
            BLOCK_S=POSITIONS_PLAIN if plain else POSITIONS,
            num_warps=4,
        )
        join_kernel[(B, N)](
            maxima,
            sums,
            contexts,
            lengths,
            out,
            chunks,
            H=H,
            BLOCK_H=block_h,
            CHUNK=size,
            num_warps=4 if block_h >= 128 else 1,
        )
    return out
