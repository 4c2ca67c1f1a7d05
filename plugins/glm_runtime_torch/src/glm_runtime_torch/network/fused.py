"""Pairs of operations that a backend's layer may do in one pass; in plain PyTorch one after the other."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F


def apply_linear_gelu(layer: nn.Module, x: Tensor) -> Tensor:
    """Apply a linear layer and the tanh-approximated GELU; fused by layers that have ``forward_gelu(x)``."""
    fused = getattr(layer, "forward_gelu", None)
    return F.gelu(layer(x), approximate="tanh") if fused is None else fused(x)


def normalize_sum(norm: nn.Module, x: Tensor, residual: Tensor, alpha: float) -> Tensor:
    """Return ``norm(alpha * x + residual)``; fused by norms that have ``forward_sum(x, residual, alpha)``."""
    fused = getattr(norm, "forward_sum", None)
    return norm(residual.add(x, alpha=alpha)) if fused is None else fused(x, residual, alpha)
