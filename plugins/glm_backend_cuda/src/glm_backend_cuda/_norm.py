"""LayerNorm with Triton, of a sum without writing the sum out. Axes: D channels."""

from __future__ import annotations

import torch
import triton
from torch import Tensor, nn

from ._layers import DTYPES
from ._tensors import use_device_of
from ._triton_norm import normalize_kernel

LARGEST = 16384  # channels; a program holds all of a row in its registers


class TritonLayerNorm(nn.LayerNorm):
    """A LayerNorm with weight and bias that the networks fuse with its sum, see `forward_sum`.

    Args:
        norm: whose weights to take; over the last axis, with weight and bias.
    """

    def __init__(self, norm: nn.LayerNorm) -> None:
        with torch.device("meta"):
            super().__init__(norm.normalized_shape, norm.eps)
        self.weight, self.bias = norm.weight, norm.bias

    def forward(self, x: Tensor) -> Tensor:
        """Normalise ``[..., D]``."""
        return self._normalize(x, None, 1.0) if self._computes(x) else super().forward(x)

    def forward_sum(self, x: Tensor, residual: Tensor, alpha: float) -> Tensor:
        """Normalise ``alpha * x + residual``, both ``[..., D]``; the sum is not rounded in between."""
        if self._computes(x) and self._computes(residual) and x.shape == residual.shape:
            return self._normalize(x, residual, alpha)
        return super().forward(torch.add(residual, x, alpha=alpha))

    def _computes(self, x: Tensor) -> bool:
        if x.dtype not in DTYPES or x.dtype != self.weight.dtype or x.shape[-1] > LARGEST:
            return False
        return not (torch.is_grad_enabled() and (x.requires_grad or self.weight.requires_grad))

    def _normalize(self, x: Tensor, residual: Tensor | None, alpha: float) -> Tensor:
        x = x.contiguous()
        others = x if residual is None else residual.contiguous()
        y = torch.empty_like(x)
        width = x.shape[-1]
        block = triton.next_power_of_2(width)
        if x.numel():
            with use_device_of(x):
                normalize_kernel[(x.numel() // width,)](
                    x,
                    others,
                    self.weight,
                    self.bias,
                    y,
                    alpha,
                    self.eps,
                    D=width,
                    BLOCK=block,
                    SUM=residual is not None,
                    num_warps=min(8, max(1, block // 512)),
                )
        return y
