"""Quantised layers on torch's own CPU kernels, for machines without the kernel library.

They need bfloat16 activations. For other dtypes, and for sizes that the products do not take, the runtime's
reference layer stays. Unlike with the library, a row's bits may depend on the batch.
"""

from __future__ import annotations

import torch
from glm_runtime_torch.backends import (
    KernelSet,
    QuantizedEmbedding,
    QuantizedLinear,
    WeightOnlyInt4Linear,
    WeightOnlyInt8Linear,
    unpack_int4,
)
from torch import Tensor, nn

FEW_ROWS = 4  # up to here the int8 product is faster than dequantising the matrix; the int4 one always is
INT4_GROUPS = (128, 64, 32)  # that the int4 product knows; the largest is the fastest
INT4_ROWS, INT8_INPUTS = 16, 32  # the products take multiples of these only


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
            return WeightOnlyInt8Linear(stored, scale, bias, torch._weight_int8pack_mm, FEW_ROWS)
        group = next((group for group in INT4_GROUPS if layer.in_features % group == 0), 0)
        known = hasattr(torch, "_weight_int4pack_mm_for_cpu")
        if layer.bits == 4 and group and layer.out_features % INT4_ROWS == 0 and known:
            return _make_int4_linear(stored, scale, bias, group)
        return None

    def make_tied_table(
        self, table: nn.Embedding | QuantizedEmbedding, head: nn.Linear | QuantizedLinear
    ) -> tuple[None, None]:
        """Leave both: the embedding needs the stored order, which the head shares."""
        return None, None


def _make_int4_linear(stored: Tensor, scale: Tensor, bias: Tensor | None, group: int) -> nn.Module:
    unsigned = (unpack_int4(stored) + 8).to(torch.int32)  # the form that the packing function takes
    packed = torch._convert_weight_to_int4pack_for_cpu(unsigned, 1)
    return WeightOnlyInt4Linear(
        packed, scale, bias, unsigned.shape[1], group, torch._weight_int4pack_mm_for_cpu
    )
