"""All calls that need Apple's GPU, in one place because no test machine has one; see the README."""

from __future__ import annotations

import torch
from torch import Tensor

DEVICE = torch.device("mps")
INNER_TILES = 8  # the packing function asks for it; on this device it changes nothing
INT4_GROUPS = (128, 64, 32)  # numbers of inputs to a scale that the int4 product takes, fastest first
INT4_ROWS = 32  # it takes matrices of a multiple of so many rows


def is_available() -> bool:
    """Return whether this PyTorch can use the GPU now."""
    return torch.backends.mps.is_available()


def measure_free_bytes() -> int:
    """Return the bytes that the GPU should still take, as Metal recommends."""
    return torch.mps.recommended_max_memory() - torch.mps.driver_allocated_memory()


def multiply_int8(x: Tensor, weight: Tensor, scale: Tensor) -> Tensor:
    """Return ``x [M, K] @ (weight [N, K] int8 * scale [N]).T`` in the dtype of ``x``."""
    return torch._weight_int8pack_mm(x, weight, scale)


def pack_int4(nibbles: Tensor) -> Tensor:
    """Pack ``[N, K / 2]`` uint8 for `multiply_int4`: value + 8, even inputs in the high half."""
    return torch._convert_weight_to_int4pack(nibbles.to(DEVICE), INNER_TILES)


def multiply_int4(x: Tensor, packed: Tensor, group: int, scale_and_zero: Tensor) -> Tensor:
    """Return ``x [M, K] @ W.T``; W is ``scale * (value - 8) + zero``, with both in ``[K / group, N, 2]``."""
    return torch._weight_int4pack_mm(x, packed, group, scale_and_zero)
