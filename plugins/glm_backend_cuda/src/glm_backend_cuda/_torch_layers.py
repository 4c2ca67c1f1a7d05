"""Quantised layers on torch's own CUDA kernels, for GPUs or installations without Triton; bfloat16 only.

Which of them a torch has, and for which GPU, differs from version to version; each is tried once on the
device and taken if its result is right. Elsewhere the runtime's layer dequantises the matrix at each call.
A row's bits may depend on the batch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from glm_runtime_torch.backends import QuantizedLinear, dequantize_rows, make_quantized_table, quantize_rows
from torch import Tensor, nn
from torch.nn import functional as F

from ._tensors import freeze

FEW_ROWS = 16  # up to here a product that reads integers beats writing the matrix out
INNER_TILES = 8  # torch's layout of int4 packs so many tiles of 16 inputs
INT4_ROWS, INT4_INPUTS = 8, 16 * INNER_TILES  # what it wants to divide the matrix by
INT4_GROUP = 128
FLIP_SIGNS = -0x78  # 0x88 as int8: turns two signed nibbles into value + 8
ROUNDING = 2e-2

Int8Product = Callable[[Tensor, Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Int4Product:
    """Torch's int4 product: how it lays a matrix out, and the product with it."""

    pack: Callable[[Tensor, int], Tensor]
    multiply: Callable[[Tensor, Tensor, int, Tensor], Tensor]


@dataclass(frozen=True)
class Products:
    """The products over integers that work; ``None`` = not here.

    Attributes:
        int8: ``(x [M, K], stored [N, K], scale [N])`` to ``[M, N]``, in bfloat16.
        int4: see `Int4Product`; in bfloat16.
    """

    int8: Int8Product | None = None
    int4: Int4Product | None = None


class TorchInt8Linear(nn.Module):
    """int8 weights with a scale per row: torch's weight-only product for few rows.

    Args:
        stored: int8 ``[N, K]``, which an embedding may share.
        scale: ``[N]``.
        bias: ``[N]`` or ``None``.
        product: see `Products.int8`.
    """

    def __init__(self, stored: Tensor, scale: Tensor, bias: Tensor | None, product: Int8Product) -> None:
        super().__init__()
        self.out_features, self.in_features = stored.shape
        self.weight = freeze(stored)
        self.weight_scale = freeze(scale.float())
        self.bias = None if bias is None else freeze(bias.float())
        self._product = product
        # The product takes scales in the dtype of activations, which is too coarse for them: it gets ones.
        self.register_buffer("_ones", torch.ones_like(self.weight_scale), persistent=False)
        self._ones: Tensor

    def forward(self, x: Tensor) -> Tensor:
        """Map ``[..., K]`` to ``[..., N]`` in the dtype of ``x``."""
        rows = x.reshape(-1, self.in_features)
        if len(rows) <= FEW_ROWS and not (x.requires_grad and torch.is_grad_enabled()):
            product = self._product(rows.contiguous(), self.weight, self._ones.to(x.dtype))
        else:
            product = F.linear(rows, self.weight.to(x.dtype))
        return _finished(product, self.weight_scale, self.bias, x)


class TorchInt4Linear(nn.Module):
    """int4 weights with a scale per row in torch's int4 product; the matrix is written out for many rows.

    Args:
        stored: int8 ``[N, K / 2]``, see `glm_runtime_torch.backends.quantize_rows`.
        scale: ``[N]``.
        bias: ``[N]`` or ``None``.
        product: see `Int4Product`.
    """

    def __init__(self, stored: Tensor, scale: Tensor, bias: Tensor | None, product: Int4Product) -> None:
        super().__init__()
        self.out_features, self.in_features = stored.shape[0], 2 * stored.shape[1]
        unsigned = (stored ^ FLIP_SIGNS).view(torch.uint8)  # the even column is in the high nibble there too
        self.weight = freeze(product.pack(unsigned, INNER_TILES))
        self.weight_scale = freeze(scale.float())
        self.bias = None if bias is None else freeze(bias.float())
        self._product = product
        unit = torch.zeros(self.in_features // INT4_GROUP, self.out_features, 2, device=stored.device)
        unit[..., 0] = 1
        self.register_buffer("_unit", unit.bfloat16(), persistent=False)
        self._unit: Tensor

    def forward(self, x: Tensor) -> Tensor:
        """Map ``[..., K]`` to ``[..., N]`` in the dtype of ``x``."""
        rows = x.reshape(-1, self.in_features)
        if len(rows) <= FEW_ROWS and not (x.requires_grad and torch.is_grad_enabled()):
            product = self._multiply(rows.bfloat16().contiguous())
        else:  # a product with the identity is the matrix, exactly
            identity = torch.eye(self.in_features, dtype=torch.bfloat16, device=x.device)
            product = rows @ self._multiply(identity).to(x.dtype)
        return _finished(product, self.weight_scale, self.bias, x)

    def _multiply(self, rows: Tensor) -> Tensor:
        return self._product.multiply(rows, self.weight, INT4_GROUP, self._unit)


class TorchLayers:
    """`glm_backend_cuda._kernel_set.QuantizedLayers` on torch's kernels.

    Args:
        dtype: that the model computes in.
        products: which of them work.
    """

    def __init__(self, dtype: torch.dtype, products: Products) -> None:
        self._dtype, self._products = dtype, products

    def linear(
        self, stored: Tensor, scale: Tensor, bias: Tensor | None, bits: int, group_size: int
    ) -> nn.Module:
        """Return the fastest layer that torch has for this matrix."""
        int8, int4 = self._products.int8, self._products.int4
        # Sums of integers that are not scaled yet leave float16's range. Scales of groups would have to be
        # bfloat16, which loses 0.4 %; those of rows are applied afterwards.
        if self._dtype == torch.bfloat16 and not group_size:
            fits = stored.shape[0] % INT4_ROWS == 0 and 2 * stored.shape[1] % INT4_INPUTS == 0
            if bits == 8 and int8 is not None:
                return TorchInt8Linear(stored, scale, bias, int8)
            if bits == 4 and int4 is not None and fits:
                return TorchInt4Linear(stored, scale, bias, int4)
        return QuantizedLinear.from_stored(stored, scale, bias, bits, group_size)

    def tied_table(
        self, stored: Tensor, scale: Tensor, bits: int, group_size: int
    ) -> tuple[nn.Module, nn.Module]:
        """Return the reference's embedding and a head that shares its integers, on a product if it can."""
        embedding, head = make_quantized_table(stored, scale, bits, group_size)
        assert isinstance(head, QuantizedLinear)
        if self._dtype != torch.bfloat16 or bits != 8 or self._products.int8 is None:
            return embedding, head
        return embedding, TorchInt8Linear(head.weight, scale, None, self._products.int8)


def products_of(devices: Sequence[torch.device], dtype: torch.dtype) -> Products:
    """Return Torch's products that give the right numbers on all of these GPUs."""
    gpus = [device for device in devices if device.type == "cuda"]
    if not gpus or len(gpus) < len(devices):
        return Products()
    return working_products(
        Products(
            getattr(torch, "_weight_int8pack_mm", None),
            Int4Product(torch._convert_weight_to_int4pack, torch._weight_int4pack_mm)
            if hasattr(torch, "_weight_int4pack_mm")
            else None,
        ),
        gpus,
        dtype,
    )


def working_products(offered: Products, devices: Sequence[torch.device], dtype: torch.dtype) -> Products:
    """Return those of some products that give the right numbers on all devices."""
    works = {
        bits: product is not None and all(_works(offered, bits, device, dtype) for device in devices)
        for bits, product in ((8, offered.int8), (4, offered.int4))
    }
    return Products(offered.int8 if works[8] else None, offered.int4 if works[4] else None)


def _works(offered: Products, bits: int, device: torch.device, dtype: torch.dtype) -> bool:
    generator = torch.Generator().manual_seed(bits)
    stored, scale = quantize_rows(torch.randn(64, 256, generator=generator).to(device), bits)
    x = torch.randn(2, 256, generator=generator).to(device, dtype)
    try:
        layer = TorchLayers(dtype, offered).linear(stored, scale, None, bits, 0)
        found = layer(x).float()
    except Exception:  # the product is not built for this device or dtype, which is what is asked
        return False
    wanted = x.float() @ dequantize_rows(stored, scale, bits, torch.float32).T
    return float((found - wanted).norm()) < ROUNDING * float(wanted.norm())


def _finished(product: Tensor, scale: Tensor, bias: Tensor | None, x: Tensor) -> Tensor:
    y = product.float() * scale
    return (y if bias is None else y + bias).to(x.dtype).unflatten(0, x.shape[:-1])
