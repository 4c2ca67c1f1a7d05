"""Every line that names Apple's GPU; what the rest of this package computes with.

Nothing here was ever executed: see the package's README.
"""

from __future__ import annotations

import torch
from torch import Tensor

DEVICE = torch.device("mps")
INNER_TILES = 8  # a detail of the packed form; the product does not read it on this device
INT4_GROUPS = (128, 64, 32)  # inputs that share a scale, as the int4 product takes them
INT4_ROWS = 32  # what it wants to divide the rows of a matrix by


def is_available() -> bool:
    """Return whether this PyTorch can use the GPU now."""
    return torch.backends.mps.is_available()


def free_bytes() -> int:
    """Return memory that the GPU should still take, as Metal recommends."""
    return torch.mps.recommended_max_memory() - torch.mps.driver_allocated_memory()


def int8_product(x: Tensor, weight: Tensor, scale: Tensor) -> Tensor:
    """Return ``x [M, K] @ (weight [N, K] int8 * scale [N]).T`` in the dtype of ``x``."""
    return torch._weight_int8pack_mm(x, weight, scale)


def int4_pack(nibbles: Tensor) -> Tensor:
    """Pack ``[N, K / 2]`` uint8 for `int4_product`: value + 8, even inputs in the high half."""
    return torch._convert_weight_to_int4pack(nibbles.to(DEVICE), INNER_TILES)


def int4_product(x: Tensor, packed: Tensor, group: int, scale_and_zero: Tensor) -> Tensor:
    """Return ``x [M, K] @ W.T``; W is ``scale * (value - 8) + zero``, with both in ``[K / group, N, 2]``."""
    return torch._weight_int4pack_mm(x, packed, group, scale_and_zero)
