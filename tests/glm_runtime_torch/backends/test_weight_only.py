"""Layers over a product with integers that a backend brings, here plain ones that count rows."""

from __future__ import annotations

import pytest
import torch
from backend_cases import random_matrix, relative_error
from glm_runtime_torch.backends import WeightOnlyInt4Linear, WeightOnlyInt8Linear, freeze, unpack_int4
from glm_runtime_torch.quantization import QuantizedLinear
from torch import Tensor, nn

GROUP, FEW_ROWS = 64, 3
ROUNDING = 8e-3  # bfloat16, twice


class Products:
    """Both products in plain PyTorch."""

    def __init__(self) -> None:
        self.rows: list[int] = []  # of each call

    def multiply_int8(self, x: Tensor, stored: Tensor, scale: Tensor) -> Tensor:
        """The int8 product."""
        assert x.dtype == scale.dtype == torch.bfloat16
        self.rows.append(len(x))
        return (x.float() @ stored.float().T * scale.float()).bfloat16()

    def multiply_int4(self, x: Tensor, packed: Tensor, group: int, scale_and_zero: Tensor) -> Tensor:
        """The int4 product over unpacked integers."""
        assert x.dtype == scale_and_zero.dtype == torch.bfloat16
        self.rows.append(len(x))
        scale, zero = (part.T.float().repeat_interleave(group, dim=1) for part in scale_and_zero.unbind(-1))
        return (x.float() @ (packed.float() * scale + zero).T).bfloat16()


def make_layer(bits: int, products: Products, few_rows: int = FEW_ROWS) -> tuple[nn.Module, QuantizedLinear]:
    """A layer over the products, and the reference over the same integers."""
    integers, scale, bias = random_matrix(48, 256, bits)
    reference = QuantizedLinear.from_stored(integers, scale, bias, bits)
    if bits == 8:
        return WeightOnlyInt8Linear(integers, scale, bias, products.multiply_int8, few_rows), reference
    packed = unpack_int4(integers)
    product = products.multiply_int4
    return WeightOnlyInt4Linear(packed, scale, bias, 256, GROUP, product, few_rows), reference


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float16], ids=str)
@pytest.mark.parametrize("count", [1, FEW_ROWS, FEW_ROWS + 1])
@pytest.mark.parametrize("bits", [8, 4])
def test_every_dtype_and_number_of_rows_gives_the_references_result(
    bits: int, count: int, dtype: torch.dtype
) -> None:
    """The result has the dtype and the leading axes of the input, and the reference's numbers."""
    layer, reference = make_layer(bits, Products())
    x = torch.randn(1, count, 256).to(dtype)
    found = layer(x)
    assert (found.dtype, found.shape) == (dtype, (1, count, 48))
    assert relative_error(found, reference(x.float())) < ROUNDING


@pytest.mark.parametrize("bits", [8, 4])
def test_the_product_is_for_few_rows(bits: int) -> None:
    """More rows than pay are multiplied with the matrix, which the int4 product itself has to give."""
    products = Products()
    layer, _ = make_layer(bits, products)
    layer(torch.randn(FEW_ROWS, 256).bfloat16())
    layer(torch.randn(FEW_ROWS + 1, 256).bfloat16())
    assert products.rows == ([FEW_ROWS] if bits == 8 else [FEW_ROWS, 256])


@pytest.mark.parametrize("bits", [8, 4])
def test_gradients_flow_to_the_input(bits: int) -> None:
    """Where a gradient is needed the product, which has none, is not used."""
    layer, reference = make_layer(bits, Products())
    x = torch.randn(2, 256).requires_grad_()
    (found,) = torch.autograd.grad(layer(x).square().sum(), x)
    (wanted,) = torch.autograd.grad(reference(x).square().sum(), x)
    assert relative_error(found, wanted) < ROUNDING


def test_frozen_parameters_stay_the_same_object() -> None:
    """A table and the head over it are in memory once; what wants a gradient is detached."""
    table = nn.Parameter(torch.zeros(3, dtype=torch.int8), requires_grad=False)
    assert freeze(table) is table
    trained = nn.Parameter(torch.zeros(3))
    assert not freeze(trained).requires_grad
    assert freeze(trained).data_ptr() == trained.data_ptr()
