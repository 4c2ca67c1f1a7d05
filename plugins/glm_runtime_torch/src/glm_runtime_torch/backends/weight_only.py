"""Linear layers over a product with integer weights that torch has for some devices; bfloat16 only.

Torch's products differ from device to device in how they are called and how they lay a matrix out. What is
the same everywhere is here; a backend brings the product itself. A row's bits may depend on the batch.

Axes: M rows · N outputs · K inputs
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

Int8Product = Callable[[Tensor, Tensor, Tensor], Tensor]
"""``(x [M, K], stored [N, K], scale [N])`` to ``[M, N]``; x, scale and result are bfloat16."""

Int4Product = Callable[[Tensor, Tensor, int, Tensor], Tensor]
"""``(x [M, K], packed, group size, scale and zero [K / group, N, 2])`` to ``[M, N]``, all in bfloat16."""


class WeightOnlyInt8Linear(nn.Module):
    """int8 weights with a scale per row: a product with integers for few rows, a written-out matrix for many.

    Args:
        stored: int8 ``[N, K]``, which an embedding may share.
        scale: ``[N]``.
        bias: ``[N]`` or ``None``.
        product: see `Int8Product`.
        few_rows: up to so many rows the product is faster than writing the matrix out.
    """

    def __init__(
        self, stored: Tensor, scale: Tensor, bias: Tensor | None, product: Int8Product, few_rows: int
    ) -> None:
        super().__init__()
        self.out_features, self.in_features = stored.shape
        self.weight = freeze(stored)
        self.weight_scale = freeze(scale.float())
        self.bias = None if bias is None else freeze(bias.float())
        self._product, self._few_rows = product, few_rows
        # The product takes scales in bfloat16, which has 8 bits and is too coarse for them: it gets ones,
        # and the scales are applied to its result in float32.
        ones = torch.ones_like(self.weight_scale, dtype=torch.bfloat16)
        self.register_buffer("_ones", ones, persistent=False)
        self._ones: Tensor

    def forward(self, x: Tensor) -> Tensor:
        """Map ``[..., K]`` to ``[..., N]`` in the dtype of ``x``."""
        rows = x.reshape(-1, self.in_features)
        if x.dtype == torch.bfloat16 and len(rows) <= self._few_rows and not _needs_gradient(x):
            product = self._product(rows.contiguous(), self.weight, self._ones)
        else:  # the product takes no other dtype and has no gradient
            product = F.linear(rows, self.weight.to(x.dtype))
        return _finish(product, self.weight_scale, self.bias, x)


class WeightOnlyInt4Linear(nn.Module):
    """int4 weights with a scale per row in a product that has the matrix in a form of its own.

    Args:
        packed: the matrix as the product takes it.
        scale: ``[N]``.
        bias: ``[N]`` or ``None``.
        in_features: K.
        group: inputs that share a scale, as the product is told; it divides K.
        product: see `Int4Product`; it multiplies with ``value * scale + zero``, values from -8 to 7.
        few_rows: up to so many rows the product is faster than writing the matrix out; ``None`` = always.
    """

    def __init__(
        self,
        packed: Tensor,
        scale: Tensor,
        bias: Tensor | None,
        in_features: int,
        group: int,
        product: Int4Product,
        few_rows: int | None = None,
    ) -> None:
        super().__init__()
        self.in_features, self.out_features = in_features, len(scale)
        self.weight = freeze(packed)
        self.weight_scale = freeze(scale.float())
        self.bias = None if bias is None else freeze(bias.float())
        self._group, self._product, self._few_rows = group, product, few_rows
        # Scales of one for the reason that `WeightOnlyInt8Linear` gives, and zero points of zero.
        unit = torch.zeros(in_features // group, self.out_features, 2, device=packed.device)
        unit[..., 0] = 1
        self.register_buffer("_unit", unit.bfloat16(), persistent=False)
        self._unit: Tensor

    def forward(self, x: Tensor) -> Tensor:
        """Map ``[..., K]`` to ``[..., N]`` in the dtype of ``x``."""
        rows = x.reshape(-1, self.in_features)
        has_few_rows = self._few_rows is None or len(rows) <= self._few_rows
        if has_few_rows and not _needs_gradient(x):
            product = self._multiply(rows.bfloat16().contiguous())
        else:  # the product has no gradient; with the identity it gives the matrix itself, exactly
            identity = torch.eye(self.in_features, dtype=torch.bfloat16, device=x.device)
            product = rows @ self._multiply(identity).to(x.dtype)
        return _finish(product, self.weight_scale, self.bias, x)

    def _multiply(self, rows: Tensor) -> Tensor:
        return self._product(rows, self.weight, self._group, self._unit)


def freeze(tensor: Tensor) -> nn.Parameter:
    """Return a parameter that wants no gradient; one that is already such stays the same object."""
    # The same object, so that a table and the head over it are still seen to share their memory.
    if isinstance(tensor, nn.Parameter) and not tensor.requires_grad:
        return tensor
    return nn.Parameter(tensor.detach(), requires_grad=False)


def _needs_gradient(x: Tensor) -> bool:
    return x.requires_grad and torch.is_grad_enabled()


def _finish(product: Tensor, scale: Tensor, bias: Tensor | None, x: Tensor) -> Tensor:
    """Apply scale and bias in float32 and give the result the leading axes and the dtype of ``x``."""
    y = product.float() * scale
    return (y if bias is None else y + bias).to(x.dtype).unflatten(0, x.shape[:-1])
