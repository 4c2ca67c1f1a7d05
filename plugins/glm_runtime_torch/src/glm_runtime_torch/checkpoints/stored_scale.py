"""Dtypes in files, and how the numbers of a stored matrix become weights where a scale belongs to them.

Axes: D columns of the matrix · R scales along its rows · C scales along its columns
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

SAFETENSORS_DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
    # Float8, and what no model of ours has, because a tensor that nobody reads may have it all the same.
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E4M3FNUZ": torch.float8_e4m3fnuz,
    "F8_E5M2": torch.float8_e5m2,
    "F8_E5M2FNUZ": torch.float8_e5m2fnuz,
    "F8_E8M0": torch.float8_e8m0fnu,
    "U16": torch.uint16,
    "U32": torch.uint32,
    "U64": torch.uint64,
    "C64": torch.complex64,
}

PLAIN_DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
"""Dtypes whose numbers are the weights themselves."""


@dataclass(frozen=True)
class StoredScale:
    """How the integers or float8 numbers of a matrix become weights.

    Attributes:
        name: the tensor that holds the scales.
        shape: ``(R, C)``.
        rows: how many rows of the matrix share a scale.
        columns: how many columns do.
        factor: what a scale is multiplied by.
    """

    name: str
    shape: tuple[int, int]
    rows: int
    columns: int
    factor: float = 1.0

    def decode(self, stored: Tensor, scales: Tensor, indices: Tensor) -> Tensor:
        """Return rows of the matrix as float32.

        Args:
            stored: rows ``[n, D]``, int8 or float8.
            scales: float32, as many as `shape` says.
            indices: ``[n]``, where these rows stand in the matrix.
        """
        chosen = scales.view(self.shape)[indices // self.rows] * self.factor  # [n, C]
        if self.shape[1] > 1:
            chosen = chosen.repeat_interleave(self.columns, dim=1)[:, : stored.shape[1]]  # [n, D]
        return stored.float() * chosen
