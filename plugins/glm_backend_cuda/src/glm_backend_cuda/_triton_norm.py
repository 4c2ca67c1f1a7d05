"""The Triton kernel of LayerNorm. Axes: M rows · D channels."""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def normalize_kernel(
    x, residual, weight, bias, y, alpha, eps, D: tl.constexpr, BLOCK: tl.constexpr, SUM: tl.constexpr
):
    """Normalise one row of ``x``, or of ``alpha * x + residual``, in float32; all ``[M, D]``, contiguous."""
    row = tl.program_id(0).to(tl.int64)
    channel = tl.arange(0, BLOCK)
    inside = channel < D
    h = tl.load(x + row * D + channel, mask=inside, other=0.0).to(tl.float32)
    if SUM:
        h = h * alpha + tl.load(residual + row * D + channel, mask=inside, other=0.0).to(tl.float32)
    h = tl.where(inside, h - tl.sum(h, axis=0) / D, 0.0)
    h = h / tl.sqrt(tl.sum(h * h, axis=0) / D + eps)
    factor = tl.load(weight + channel, mask=inside, other=0.0).to(tl.float32)
    offset = tl.load(bias + channel, mask=inside, other=0.0).to(tl.float32)
    tl.store(y + row * D + channel, (h * factor + offset).to(y.dtype.element_ty), mask=inside)
