"""Quantised layers on torch's own CPU kernels, for machines without the kernel library.

They need bfloat16 activations; elsewhere, and for sizes that they do not take, the runtime's reference
layer is used. Unlike the library's, a row's bits may depend on the batch.
"""

from __future__ import annotations

import torch
from glm_runtime_torch.backends import KernelSet, QuantizedEmbedding, QuantizedLinear, unpack_int4
from torch import Tensor, nn
from torch.nn import functional as F

FEW_ROWS = 4  # up to here the weight-only product beats dequantising the matrix
INT4_GROUPS = (128, 64, 32)
INT4_ROWS, INT8_INPUTS = 16, 32  # what the kernels want to divide the matrix by


class TorchInt8Linear(nn.Module):
    """int8 weights with a scale per row: torch's weight-only product for few rows, bfloat16 above."""

    def __init__(self, stored: Tensor, scale: Tensor, bias: Tensor | None) -> None:
        super().__init__()
        self.out_features, self.in_features = stored.shape
        self.weight = nn.Parameter(stored, requires_grad=False)
        self.weight_scale = nn.Parameter(scale.float(), requires_grad=False)
        self.bias = None if bias is None else nn.Parameter(bias.float(), requires_grad=False)
        # The kernel takes scales in bfloat16, which is too coarse for them: it gets ones.
        self.register_buffer("_ones", torch.ones(self.out_features, dtype=torch.bfloat16), persistent=False)
        self._ones: Tensor

    def forward(self, x: Tensor) -> Tensor:
        """Map ``[..., in]`` to ``[..., out]`` in the dtype of ``x``."""
        rows = x.reshape(-1, self.in_features)
        if x.dtype == torch.bfloat16 and len(rows) <= FEW_ROWS and not x.requires_grad:
            product = torch._weight_int8pack_mm(rows.contiguous(), self.weight, self._ones)
        else:
            product = F.linear(rows, self.weight.to(x.dtype))
        return _finish(product, self.weight_scale, self.bias, x)


class TorchInt4Linear(nn.Module):
    """int4 weights with a scale per row in torch's int4 product, which takes any number of rows."""

    def __init__(self, stored: Tensor, scale: Tensor, bias: Tensor | None, group: int) -> None:
        super().__init__()
        self.out_features, self.in_features = stored.shape[0], stored.shape[1] * 2
        self._group = group
        unsigned = (unpack_int4(stored) + 8).to(torch.int32)
        packed = torch._convert_weight_to_int4pack_for_cpu(unsigned, 1)
        self.weight = nn.Parameter(packed, requires_grad=False)
        self.weight_scale = nn.Parameter(scale.float(), requires_grad=False)
        self.bias = None if bias is None else nn.Parameter(bias.float(), requires_grad=False)
        unit = torch.zeros(self.in_features // group, self.out_features, 2, dtype=torch.bfloat16)
        unit[..., 0] = 1
        self.register_buffer("_unit", unit, persistent=False)
        self._unit: Tensor

    def forward(self, x: Tensor) -> Tensor:
        """Map ``[..., in]`` to ``[..., out]`` in the dtype of ``x``."""
        rows = x.reshape(-1, self.in_features)
        if x.requires_grad and torch.is_grad_enabled():  # the product has no gradient; the matrix itself has
            identity = torch.eye(self.in_features, dtype=torch.bfloat16)
            return _finish(rows @ self._product(identity).to(x.dtype), self.weight_scale, self.bias, x)
        return _finish(self._product(rows.bfloat16().contiguous()), self.weight_scale, self.bias, x)

    def _product(self, rows: Tensor) -> Tensor:
        return torch._weight_int4pack_mm_for_cpu(rows, self.weight, self._group, self._unit)


class TorchKernels(KernelSet):
    """Layers over stored integers on torch's own kernels.

    Args:
        dtype: that the model computes in.
    """

    replaces_borrowed = False  # int4 is packed into another form: it would be there twice

    def __init__(self, dtype: torch.dtype) -> None:
        self._dtype = dtype

    def make_quantized_linear(self, layer: QuantizedLinear) -> nn.Module | None:
        """Return the fastest layer that torch has for this matrix."""
        if self._dtype != torch.bfloat16 or layer.group_size:
            return None
        stored, scale = layer.weight.detach(), layer.weight_scale.detach()
        bias = None if layer.bias is None else layer.bias.detach()
        if layer.bits == 8 and layer.in_features % INT8_INPUTS == 0:
            return TorchInt8Linear(stored, scale, bias)
        group = next((group for group in INT4_GROUPS if layer.in_features % group == 0), 0)
        known = hasattr(torch, "_weight_int4pack_mm_for_cpu")
        if layer.bits == 4 and group and layer.out_features % INT4_ROWS == 0 and known:
            return TorchInt4Linear(stored, scale, bias, group)
        return None

    def make_tied_table(
        self, table: nn.Embedding | QuantizedEmbedding, head: nn.Linear | QuantizedLinear
    ) -> tuple[None, None]:
        """Leave both: the embedding needs the stored order, which the head shares."""
        return None, None


def _finish(product: Tensor, scale: Tensor, bias: Tensor | None, x: Tensor) -> Tensor:
    y = product.float() * scale
    return (y if bias is None else y + bias).to(x.dtype).unflatten(0, x.shape[:-1])
