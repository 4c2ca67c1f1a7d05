"""Layers on torch's own integer products, with the CPU's in place of a GPU's."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from backend_cases import random_matrix, relative_error
from glm_backend_cuda._torch_layers import (
    FEW_ROWS,
    PackedProduct,
    Products,
    TorchLayers,
    find_products,
    select_working_products,
)
from glm_runtime_torch.backends import WeightOnlyInt4Linear, WeightOnlyInt8Linear
from glm_runtime_torch.quantization import QuantizedLinear, dequantize_rows
from torch import Tensor, nn

CPU = torch.device("cpu")
ROUNDING = 8e-3  # bfloat16, twice


def pack(unsigned: Tensor, inner_tiles: int) -> Tensor:
    """What torch's int4 layout for GPUs holds, in a plain order: the even column in the high half."""
    assert unsigned.dtype == torch.uint8
    assert inner_tiles == 8
    return torch.stack((unsigned >> 4, unsigned & 15), dim=-1).flatten(1)


def multiply(x: Tensor, packed: Tensor, group: int, scale_and_zero: Tensor) -> Tensor:
    """What torch's int4 product for GPUs computes: ``(number - 8) * scale + zero`` in groups of inputs."""
    assert x.dtype == scale_and_zero.dtype == torch.bfloat16
    scale, zero = (part.T.float().repeat_interleave(group, dim=1) for part in scale_and_zero.unbind(-1))
    return (x.float() @ ((packed.float() - 8) * scale + zero).T).bfloat16()


INT4 = PackedProduct(pack, multiply)
ALL = Products(torch._weight_int8pack_mm, INT4)


@pytest.mark.parametrize("count", [1, FEW_ROWS, FEW_ROWS + 1])
@pytest.mark.parametrize(("bits", "kind"), [(8, WeightOnlyInt8Linear), (4, WeightOnlyInt4Linear)])
def test_layers_compute_what_the_reference_does(bits: int, kind: type[nn.Module], count: int) -> None:
    """In bfloat16, for few and for many rows; gradients too."""
    integers, scale, bias = random_matrix(48, 256, bits)
    layer = TorchLayers(torch.bfloat16, ALL).make_linear(integers, scale, bias, bits, 0)
    assert type(layer) is kind
    reference = QuantizedLinear.from_stored(integers, scale, bias, bits)
    x = torch.randn(1, count, 256).bfloat16()
    assert layer(x).dtype == torch.bfloat16
    assert relative_error(layer(x), reference(x.float())) < ROUNDING
    graded = x.float().requires_grad_()
    (found,) = torch.autograd.grad(layer(graded).square().sum(), graded)
    (wanted,) = torch.autograd.grad(reference(graded).square().sum(), graded)
    assert relative_error(found, wanted) < ROUNDING


def test_the_rest_is_left_to_the_reference() -> None:
    """Other dtypes, groups, sizes and products that are not there get layers that are right everywhere."""
    for dtype, products, bits, group_size, out, columns in (
        (torch.float16, ALL, 8, 0, 48, 128),
        (torch.bfloat16, Products(int4=INT4), 8, 0, 48, 128),
        (torch.bfloat16, ALL, 4, 32, 48, 128),
        (torch.bfloat16, ALL, 4, 0, 48, 72),
        (torch.bfloat16, ALL, 4, 0, 44, 128),
        (torch.bfloat16, Products(int8=torch._weight_int8pack_mm), 4, 0, 48, 128),
    ):
        made = TorchLayers(dtype, products).make_linear(
            *random_matrix(out, columns, bits, group_size), bits, group_size
        )
        assert type(made) is QuantizedLinear


@pytest.mark.parametrize("products", [ALL, Products()], ids=["all", "none"])
def test_tied_table_is_in_memory_once(products: Products) -> None:
    """The embedding keeps the stored order, which the head shares."""
    integers, scale, _ = random_matrix(50, 64, 8)
    embedding, head = TorchLayers(torch.bfloat16, products).make_tied_table(integers, scale, 8, 0)
    assert embedding.weight is head.weight
    table = dequantize_rows(integers, scale, 8, torch.float32)
    assert torch.equal(embedding(torch.tensor([3])), table[3:4])
    x = torch.randn(2, 64).bfloat16()
    assert relative_error(head(x), x.float() @ table.T) < ROUNDING


def failing(*arguments: object) -> Tensor:
    """A product that was not built."""
    raise RuntimeError("not implemented for 'CUDA'")


@pytest.mark.parametrize(
    "product",
    [failing, lambda x, weight, scale: x @ weight.T.to(x.dtype) * 1.1],
    ids=["missing", "wrong"],
)
def test_a_product_is_tried_before_it_is_used(product: Callable[..., Tensor]) -> None:
    """One that raises or is wrong is not taken; the others are."""
    offered = Products(product, INT4)
    assert select_working_products(offered, [CPU], torch.bfloat16) == Products(None, INT4)
    assert select_working_products(ALL, [CPU], torch.bfloat16) == ALL
    assert select_working_products(
        Products(ALL.int8, PackedProduct(failing, multiply)), [CPU], torch.bfloat16
    ) == (Products(ALL.int8, None))


def test_products_for_gpus_are_not_tried_elsewhere() -> None:
    """On a processor none of them is offered."""
    assert find_products([CPU], torch.bfloat16) == Products()
    assert find_products([], torch.bfloat16) == Products()
