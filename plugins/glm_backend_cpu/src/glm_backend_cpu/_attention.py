"""Decode attention with the kernel library: rotation, storing and attending in one call.

Axes: B rows · N query heads · G key/value heads · H head dim · R rotated parts of a head
"""

from __future__ import annotations

import ctypes
from array import array
from collections.abc import Sequence

import torch
from glm_runtime_torch.backends import TorchDecodeAttention
from torch import Tensor

from glm_core import OutOfMemoryError

from ._native import Native, NativeAttention
from ._packed import DTYPES


class NativeDecodeAttention:
    """`glm_runtime_torch.backends.DecodeAttention` of this library.

    Scores and sums are float32. Rows are independent of one another, bit for bit.

    Args:
        native: the library.
    """

    def __init__(self, native: Native) -> None:
        self._native = native
        self._plain = TorchDecodeAttention()

    def decode(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        cos: Tensor | None,
        sin: Tensor | None,
        keys: Tensor,
        values: Tensor,
        slots: Sequence[int],
        lengths: Sequence[int],
    ) -> Tensor:
        """Implement `DecodeAttention.decode`; without ``cos`` nothing is rotated.

        Raises:
            IndexError: a slot or a length lies outside the cache.
        """
        if cos is not None and sin is not None and not self._fits(q, k, v, cos, sin, keys, values):
            return self._plain.decode(q, k, v, cos, sin, keys, values, slots, lengths)
        return self._compute(q, k, v, cos, sin, keys, values, slots, lengths)

    def _fits(self, q: Tensor, k: Tensor, v: Tensor, cos: Tensor, sin: Tensor, *cache: Tensor) -> bool:
        new = (q, k, v)
        # The library takes one dtype for everything, channels side by side, and positions of a slot one after
        # the other. It computes no gradients. Whatever is laid out otherwise is left to PyTorch.
        return (
            q.dtype in DTYPES
            and all(tensor.dtype == q.dtype for tensor in (k, v, cos, sin, *cache))
            and all(tensor.stride(-1) == 1 for tensor in (*new, *cache))
            and all(tensor.stride(2) == tensor.shape[3] for tensor in cache)
            and not (torch.is_grad_enabled() and any(tensor.requires_grad for tensor in new))
        )

    def _compute(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        cos: Tensor | None,
        sin: Tensor | None,
        keys: Tensor,
        values: Tensor,
        slots: Sequence[int],
        lengths: Sequence[int],
    ) -> Tensor:
        B, N, _, H = q.shape
        G = k.shape[1]
        if min(slots) < 0 or max(slots) >= keys.shape[0]:
            raise IndexError(f"slots must lie between 0 and {keys.shape[0] - 1}, got {list(slots)}")
        if min(lengths) < 1 or max(lengths) > keys.shape[2]:
            raise IndexError(f"lengths must lie between 1 and {keys.shape[2]}, got {list(lengths)}")
        slot_ids, visible = array("q", slots), array("q", lengths)  # cheaper than tensors for a few numbers
        cos, sin = (None if angle is None else angle.contiguous() for angle in (cos, sin))
        out = torch.empty((B, 1, N * H), dtype=q.dtype)
        q_strides, k_strides, v_strides = q.stride(), k.stride(), v.stride()
        key_strides, value_strides = keys.stride(), values.stride()
        job = NativeAttention(
            q.data_ptr(),
            k.data_ptr(),
            v.data_ptr(),
            q_strides[0],
            q_strides[1],
            k_strides[0],
            k_strides[1],
            v_strides[0],
            v_strides[1],
            None if cos is None else cos.data_ptr(),
            None if sin is None else sin.data_ptr(),
            keys.data_ptr(),
            values.data_ptr(),
            key_strides[0],
            key_strides[1],
            value_strides[0],
            value_strides[1],
            slot_ids.buffer_info()[0],
            visible.buffer_info()[0],
            out.data_ptr(),
            B,
            N,
            G,
            H,
            1 if cos is None else cos.shape[-2],
            DTYPES[q.dtype],
        )
        if self._native.decode_attention(ctypes.addressof(job)):
            raise OutOfMemoryError(f"there is no memory left for the scores of {max(lengths)} positions.")
        return out
