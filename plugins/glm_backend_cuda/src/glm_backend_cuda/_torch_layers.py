"""Quantised layers on torch's own CUDA kernels, for GPUs or installations without Triton; bfloat16 only.

Which of them a torch has, and for which GPU, differs from version to version; each is tried once on the
device and taken if its result is right. Elsewhere the runtime's layer dequantises the matrix at each call.
A row's bits may depend on the batch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from glm_runtime_torch.backends import (
    QuantizedLinear,
    WeightOnlyInt4Linear,
    WeightOnlyInt8Linear,
    dequantize_rows,
    make_quantized_table,
    quantize_rows,
)
from torch import Tensor, nn

FEW_ROWS = 16  # up to here a product that reads integers is faster than writing the matrix out
INNER_TILES = 8  # torch's layout of int4 packs so many tiles of 16 inputs; the largest that it knows
INT4_ROWS, INT4_INPUTS = 8, 16 * INNER_TILES  # the product takes multiples of these only
INT4_GROUP = 128  # inputs to a scale, as the product is told; one scale a row, so the largest is right
FLIP_SIGNS = -0x78  # 0x88 as int8: turns two signed nibbles into value + 8
# bfloat16 rounds inputs and results by up to 0.4 % each; a product that reads the layout wrongly is off by
# about 100 %.
ROUNDING = 2e-2


@dataclass(frozen=True)
class PackedProduct:
    """Torch's int4 product: how it lays a matrix out, and the product with it."""

    pack: Callable[[Tensor, int], Tensor]
    multiply: Callable[[Tensor, Tensor, int, Tensor], Tensor]


@dataclass(frozen=True)
class Products:
    """The products over integers that work; ``None`` = not here.

    Attributes:
        int8: ``(x [M, K], stored [N, K], scale [N])`` to ``[M, N]``, in bfloat16.
        int4: see `PackedProduct`; in bfloat16.
    """

    int8: Callable[[Tensor, Tensor, Tensor], Tensor] | None = None
    int4: PackedProduct | None = None


class TorchLayers:
    """`glm_backend_cuda._kernel_set.QuantizedLayers` on torch's kernels.

    Args:
        dtype: that the model computes in.
        products: which of them work.
    """

    def __init__(self, dtype: torch.dtype, products: Products) -> None:
        self._dtype, self._products = dtype, products

    def make_linear(
        self, stored: Tensor, scale: Tensor, bias: Tensor | None, bits: int, group_size: int
    ) -> nn.Module:
        """Return the fastest layer that torch has for this matrix."""
        int8, int4 = self._products.int8, self._products.int4
        # Sums of integers that are not scaled yet leave float16's range. Scales of groups would have to be
        # bfloat16, which loses 0.4 %; those of rows are applied afterwards.
        if self._dtype == torch.bfloat16 and not group_size:
            fits = stored.shape[0] % INT4_ROWS == 0 and 2 * stored.shape[1] % INT4_INPUTS == 0
            if bits == 8 and int8 is not None:
                return WeightOnlyInt8Linear(stored, scale, bias, int8, FEW_ROWS)
            if bits == 4 and int4 is not None and fits:
                return _make_int4_linear(stored, scale, bias, int4)
        return QuantizedLinear.from_stored(stored, scale, bias, bits, group_size)

    def make_tied_table(
        self, stored: Tensor, scale: Tensor, bits: int, group_size: int
    ) -> tuple[nn.Module, nn.Module]:
        """Return the reference's embedding and a head that shares its integers, on a product if it can."""
        embedding, head = make_quantized_table(stored, scale, bits, group_size)
        assert isinstance(head, QuantizedLinear)
        if self._dtype != torch.bfloat16 or bits != 8 or self._products.int8 is None:
            return embedding, head
        return embedding, WeightOnlyInt8Linear(head.weight, scale, None, self._products.int8, FEW_ROWS)


def _make_int4_linear(
    stored: Tensor, scale: Tensor, bias: Tensor | None, product: PackedProduct
) -> nn.Module:
    unsigned = (stored ^ FLIP_SIGNS).view(torch.uint8)  # the even column is in the high nibble there too
    packed = product.pack(unsigned, INNER_TILES)
    return WeightOnlyInt4Linear(
        packed, scale, bias, 2 * stored.shape[1], INT4_GROUP, product.multiply, FEW_ROWS
    )


def find_products(devices: Sequence[torch.device], dtype: torch.dtype) -> Products:
    """Return torch's products that give the right numbers on all of these GPUs."""
    gpus = [device for device in devices if device.type == "cuda"]
    if not gpus or len(gpus) < len(devices):
        return Products()
    return select_working_products(
        Products(
            getattr(torch, "_weight_int8pack_mm", None),
            PackedProduct(torch._convert_weight_to_int4pack, torch._weight_int4pack_mm)
            if hasattr(torch, "_weight_int4pack_mm")
            else None,
        ),
        gpus,
        dtype,
    )


def select_working_products(
    offered: Products, devices: Sequence[torch.device], dtype: torch.dtype
) -> Products:
    """Return those of some products that give the right numbers on all devices."""
    works = {
        bits: product is not None and all(_is_right(offered, bits, device, dtype) for device in devices)
        for bits, product in ((8, offered.int8), (4, offered.int4))
    }
    return Products(offered.int8 if works[8] else None, offered.int4 if works[4] else None)


def _is_right(offered: Products, bits: int, device: torch.device, dtype: torch.dtype) -> bool:
    generator = torch.Generator().manual_seed(bits)
    stored, scale = quantize_rows(torch.randn(64, 256, generator=generator).to(device), bits)
    x = torch.randn(2, 256, generator=generator).to(device, dtype)
    try:
        layer = TorchLayers(dtype, offered).make_linear(stored, scale, None, bits, 0)
        found = layer(x).float()
    except Exception:  # the product is not built for this device or dtype, which is what is asked
        return False
    wanted = x.float() @ dequantize_rows(stored, scale, bits, torch.float32).T
    return float((found - wanted).norm()) < ROUNDING * float(wanted.norm())
