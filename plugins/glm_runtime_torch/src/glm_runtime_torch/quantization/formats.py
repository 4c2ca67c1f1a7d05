"""How quantised matrices are stored: integers, scales, and how two nibbles share a byte.

Symmetric. int8 stores one signed byte a weight; int4 stores two signed nibbles a byte, the even
column in the high one. A scale belongs to a row, as in the published checkpoints, or with int4 to
a group of inputs within a row. docs/quantization.md describes the bytes.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

BITS = (8, 4)
GROUP_SIZES = (32, 64, 128)
SCHEMES = ("int8", "int4", *(f"int4-g{size}" for size in GROUP_SIZES))
# Weights that are rounded at a time, so that the float32 copies that rounding makes of them stay at a few MB.
PIECE_ELEMENTS = 2**20


def check_format(bits: int, in_features: int = 0, group_size: int = 0) -> None:
    """Refuse what the format cannot store.

    Args:
        bits: 8 or 4.
        in_features: columns of the matrix; 0 checks the scheme alone.
        group_size: 0 = a scale per row.

    Raises:
        ValueError: saying in one sentence why, and what can be.
    """
    if bits not in BITS:
        raise ValueError(f"bits must be 8 or 4, got {bits}")
    if group_size and bits != 4:
        raise ValueError(
            f"int8 has one scale per row, got groups of {group_size}; use 4 bits or leave groups out"
        )
    if group_size and group_size not in GROUP_SIZES:
        raise ValueError(f"groups have 32, 64 or 128 input features, got {group_size}")
    if group_size and in_features % group_size:
        fitting = [str(size) for size in GROUP_SIZES if in_features % size == 0]
        instead = f"groups of {' or '.join(fitting)} do" if fitting else "leave groups out"
        raise ValueError(f"{in_features} input features do not divide into groups of {group_size}; {instead}")
    if bits == 4 and in_features % 2:
        raise ValueError(f"int4 packs two input features into a byte; {in_features} is odd")


def compute_largest_integer(bits: int) -> int:
    """Return what the largest weight of a row or group becomes: 127 or 7."""
    # -128 and -8 are not used, because the format is symmetric and the published checkpoints do without them.
    return int(2 ** (bits - 1) - 1)


def compute_stored_shape(shape: Sequence[int], bits: int) -> tuple[int, int]:
    """Return the shape of the stored int8 tensor of a matrix ``(out, in)``."""
    out_features, in_features = shape
    return out_features, in_features // 2 if bits == 4 else in_features


def compute_scale_shape(shape: Sequence[int], group_size: int) -> tuple[int, ...]:
    """Return the shape of the scales of a matrix ``(out, in)``: ``(out,)``, or ``(out, in / group_size)``."""
    out_features, in_features = shape
    return (out_features, in_features // group_size) if group_size else (out_features,)


def choose_scale_dtype(dtype: torch.dtype) -> torch.dtype:
    """Return the dtype of the scales of weights of ``dtype``."""
    # bfloat16 has 8 significant bits: a scale could be off by 0.4 %, as much as int8 rounding itself.
    return torch.float32 if dtype == torch.bfloat16 else dtype


def quantize_rows(weight: Tensor, bits: int, group_size: int = 0) -> tuple[Tensor, Tensor]:
    """Round a matrix to the nearest integers; per row bit-equal to the original in float16 and float32.

    Args:
        weight: ``[out, in]`` float16, bfloat16 or float32.
        bits: 8 or 4; 4 needs an even number of input features.
        group_size: input features that share a scale; 0 = all of a row.

    Returns:
        Stored integers, int8 ``[out, in]`` or ``[out, in / 2]``, and scales ``[out]`` or
        ``[out, in / group_size]`` in `choose_scale_dtype`. Zeros have scale 0 and stay zeros.

    Raises:
        ValueError: see `check_format`.
    """
    rows = max(1, PIECE_ELEMENTS // weight.shape[1])  # a few rows at a time: temporaries stay small
    pieces = ((start, weight[start : start + rows]) for start in range(0, weight.shape[0], rows))
    return quantize_pieces(pieces, weight.shape, weight.dtype, bits, group_size, device=weight.device)


def quantize_pieces(
    pieces: Iterable[tuple[int, Tensor]],
    shape: Sequence[int],
    dtype: torch.dtype,
    bits: int,
    group_size: int = 0,
    *,
    device: torch.device,
) -> tuple[Tensor, Tensor]:
    """Round a matrix as `quantize_rows` does, one that is never whole in memory.

    Args:
        pieces: index of the first row, and some whole rows ``[n, in]``; together all rows.
        shape: ``(out, in)``.
        dtype: of the rows.
        bits: 8 or 4.
        group_size: input features that share a scale; 0 = all of a row.
        device: of the result.
    """
    check_format(bits, shape[1], group_size)
    stored = torch.empty(compute_stored_shape(shape, bits), dtype=torch.int8, device=device)
    scale = torch.empty(
        compute_scale_shape(shape, group_size), dtype=choose_scale_dtype(dtype), device=device
    )
    for start, rows in pieces:
        stop = start + len(rows)
        stored[start:stop], scale[start:stop] = _round(rows, bits, group_size)
    return stored, scale


def _round(rows: Tensor, bits: int, group_size: int) -> tuple[Tensor, Tensor]:
    rows = rows.to(choose_scale_dtype(rows.dtype))
    grouped = rows.unflatten(1, (-1, group_size)) if group_size else rows.unsqueeze(1)  # [n, G, g]
    limit = compute_largest_integer(bits)
    scale = grouped.abs().amax(dim=2) / limit
    divisor = torch.where(scale == 0, torch.ones_like(scale), scale)  # rows of zeros stay zeros
    # Clamped because a scale that float16 rounded down would let the largest weight overflow.
    integers = (grouped / divisor.unsqueeze(2)).round().clamp(-limit, limit).to(torch.int8).flatten(1)
    return pack(integers, bits), scale if group_size else scale.squeeze(1)


def dequantize_rows(
    stored: Tensor, scale: Tensor, bits: int, dtype: torch.dtype, group_size: int = 0
) -> Tensor:
    """Return the matrix ``[out, in]`` of stored integers and scales, multiplied in float32."""
    integers = unpack(stored, bits).float()
    grouped = integers.unflatten(1, (-1, group_size)) if group_size else integers.unsqueeze(1)
    scales = scale.float().view(len(scale), -1, 1)
    return grouped.mul_(scales).flatten(1).to(dtype)


def pack(integers: Tensor, bits: int) -> Tensor:
    """Return what is stored of int8 ``[out, in]``: itself, or two to a byte."""
    return pack_int4(integers) if bits == 4 else integers


def unpack(stored: Tensor, bits: int) -> Tensor:
    """Undo `pack`."""
    return unpack_int4(stored) if bits == 4 else stored


def pack_int4(integers: Tensor) -> Tensor:
    """Pack int8 ``[out, in]`` with values -8..7 into int8 ``[out, in / 2]``."""
    high, low = integers[:, 0::2], integers[:, 1::2]
    return (high << 4) | (low & 15)


def unpack_int4(packed: Tensor) -> Tensor:
    """Undo `pack_int4`; shifts of signed bytes extend the sign."""
    return torch.stack((packed >> 4, (packed << 4) >> 4), dim=-1).flatten(1)
