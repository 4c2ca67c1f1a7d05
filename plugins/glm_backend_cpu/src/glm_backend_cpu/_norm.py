"""LayerNorm with the kernel library. Axes: M rows · D channels."""

from __future__ import annotations

import ctypes

import torch
from torch import Tensor, nn

from ._native import Native, NativeNorm
from ._packed import DTYPES


class NativeLayerNorm(nn.LayerNorm):
    """A LayerNorm with weight and bias; sums are float32 whatever the dtype.

    Args:
        native: the library.
        norm: whose weights to take; over the last axis, with weight and bias.
    """

    def __init__(self, native: Native, norm: nn.LayerNorm) -> None:
        with torch.device("meta"):
            super().__init__(norm.normalized_shape, norm.eps)
        self.weight, self.bias = norm.weight, norm.bias
        # Past the module's own look-up of parameters, which takes longer than normalising a row.
        self.__dict__["_affine"] = (norm.weight, norm.bias)
        self._affine: tuple[Tensor, Tensor]
        self._native = native

    def forward(self, x: Tensor) -> Tensor:
        """Normalise ``[..., D]``."""
        if self._computes(x):
            return normalize(self._native, x, *self._affine, self.eps)
        return super().forward(x)

    def forward_sum(self, x: Tensor, residual: Tensor, alpha: float) -> Tensor:
        """Normalise ``alpha * x + residual``, both ``[..., D]``; the sum is not rounded in between."""
        alike = residual.dtype == x.dtype and residual.shape == x.shape and not residual.requires_grad
        if alike and self._computes(x):
            return normalize(self._native, x, *self._affine, self.eps, residual, alpha)
        return super().forward(torch.add(residual, x, alpha=alpha))

    def _computes(self, x: Tensor) -> bool:
        weight, bias = self._affine
        if x.dtype not in DTYPES or not x.dtype == weight.dtype == bias.dtype or x.shape[-1] != len(weight):
            return False
        return not (torch.is_grad_enabled() and (x.requires_grad or weight.requires_grad))


def normalize(
    native: Native,
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    eps: float,
    residual: Tensor | None = None,
    alpha: float = 1.0,
    *,
    rms: bool = False,
) -> Tensor:
    """Compute LayerNorm, or RMSNorm without a mean, of ``alpha * x + residual``.

    Args:
        native: the library.
        x: ``[..., D]`` float32, bfloat16 or float16; weight, bias and residual have its dtype.
        weight: ``[D]``.
        bias: ``[D]`` or ``None``.
        eps: added to the variance.
        residual: ``[..., D]`` or ``None``.
        alpha: factor of ``x``; counts only with a residual.
        rms: divide by the root of the mean square instead of centring first.

    Returns:
        ``[..., D]``.
    """
    width = x.shape[-1]
    rows, stride = (x, width) if x.is_contiguous() else _flatten_rows(x, width)
    others, others_stride = (None, 0) if residual is None else _flatten_rows(residual, width)
    y = torch.empty(x.shape, dtype=x.dtype)
    job = NativeNorm(
        rows.data_ptr(),
        None if others is None else others.data_ptr(),
        weight.data_ptr(),
        None if bias is None else bias.data_ptr(),
        y.data_ptr(),
        stride,
        others_stride,
        width,
        x.numel() // width,
        width,
        alpha,
        eps,
        DTYPES[x.dtype],
        rms,
    )
    native.norm(ctypes.addressof(job))
    return y


def _flatten_rows(x: Tensor, width: int) -> tuple[Tensor, int]:
    """Return rows whose channels are adjacent, and how many elements apart they are."""
    rows = x.reshape(-1, width)
    rows = rows if rows.stride(1) == 1 else rows.contiguous()
    return rows, rows.stride(0)
