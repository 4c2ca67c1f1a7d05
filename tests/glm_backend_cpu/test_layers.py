"""The modules over packed matrices, and the ones on torch's kernels for machines without the library."""

from __future__ import annotations

import copy

import pytest
import torch
from backend_cases import random_matrix, relative_error
from glm_backend_cpu._layers import (
    NativeEmbedding,
    NativeLinear,
    NativeQuantizedLinear,
    choose_activation_group,
)
from glm_backend_cpu._native import Native
from glm_backend_cpu._torch_layers import TorchKernels
from glm_runtime_torch.backends import WeightOnlyInt4Linear, WeightOnlyInt8Linear
from glm_runtime_torch.network.fused import apply_linear_gelu
from glm_runtime_torch.quantization import (
    QuantizedLinear,
    dequantize_rows,
    make_quantized_table,
)
from torch import nn
from torch.nn import functional as F

BFLOAT16_ROUNDING = 8e-3


@pytest.mark.parametrize(("bits", "group_size"), [(8, 0), (4, 0), (4, 32)])
def test_linear_layer_computes_what_the_reference_does(fastest: Native, bits: int, group_size: int) -> None:
    """Up to the rounding of activations; exactly as the reference where these stay as they are."""
    integers, scale, bias = random_matrix(40, 96, bits, group_size)
    reference = QuantizedLinear.from_stored(integers, scale, bias, bits, group_size)
    x = torch.randn(2, 5, 96)
    exact = NativeQuantizedLinear.from_stored(fastest, integers, scale, bias, bits, group_size, 0)
    assert relative_error(exact(x), reference(x)) < 2e-6
    fast = NativeQuantizedLinear.from_stored(fastest, integers, scale, bias, bits, group_size)
    assert 0 < relative_error(fast(x), reference(x)) < 0.02
    assert fast(x).shape == (2, 5, 40)


def test_tied_table_is_in_memory_once(fastest: Native) -> None:
    """Embedding and head share one packed matrix, and the embedding has the model's dtype."""
    integers, scale, _ = random_matrix(50, 64, 4)
    head = NativeQuantizedLinear.from_stored(fastest, integers, scale, None, 4)
    embedding = NativeEmbedding(head.matrix, torch.bfloat16)
    assert [id(part) for part in embedding.parameters()] == [id(part) for part in head.parameters()]
    rows = embedding(torch.tensor([[1, 49]]))
    assert rows.dtype == torch.bfloat16
    table = dequantize_rows(integers, scale, 4, torch.float32)
    assert torch.equal(rows[0], table[[1, 49]].bfloat16())
    x = torch.randn(3, 64).bfloat16()
    assert relative_error(head(x), x.float() @ table.T) < 0.02


@pytest.mark.parametrize("bits", [4, 8])
def test_gradients_flow_to_the_input(fastest: Native, bits: int) -> None:
    """P-Tuning through a frozen quantised base gets the reference's gradient."""
    integers, scale, bias = random_matrix(40, 64, bits)
    reference = QuantizedLinear.from_stored(integers, scale, bias, bits)
    ours = NativeQuantizedLinear.from_stored(fastest, integers, scale, bias, bits)
    x = torch.randn(3, 64, requires_grad=True)
    for found, wanted in (
        (ours(x), reference(x)),
        (ours.forward_gelu(x), F.gelu(reference(x), approximate="tanh")),
    ):
        (gradient,) = torch.autograd.grad(found.square().sum(), x)
        (expected,) = torch.autograd.grad(wanted.square().sum(), x)
        assert torch.allclose(gradient, expected, atol=1e-4, rtol=1e-4)
    assert not any(parameter.requires_grad for parameter in ours.parameters())


def test_float64_is_computed_without_the_library(fastest: Native) -> None:
    """A dtype that the library does not know gives the right result all the same."""
    weight, bias = torch.randn(20, 30), torch.randn(20)
    layer = NativeLinear.from_dense(fastest, weight, bias)
    x = torch.randn(2, 30, dtype=torch.float64)
    assert relative_error(layer(x), F.linear(x, weight.double(), bias.double())) < 1e-12


def test_feed_forward_part_is_fused(fastest: Native) -> None:
    """A layer fused with its GELU, as the runtime asks for it, and the next give what torch gives."""
    first, second = nn.Linear(32, 80), nn.Linear(80, 32)
    layers = [
        NativeLinear.from_dense(fastest, part.weight.detach(), part.bias.detach()) for part in (first, second)
    ]
    x = torch.randn(4, 1, 32)
    with torch.no_grad():
        wanted = second(F.gelu(first(x), approximate="tanh"))
    assert relative_error(layers[1](apply_linear_gelu(layers[0], x)), wanted) < 2e-6


def test_layers_can_be_copied_and_printed(fastest: Native) -> None:
    """Copies compute the same; the text says the sizes."""
    layer = NativeLinear.from_dense(fastest, torch.randn(20, 30), None)
    x = torch.randn(2, 30)
    assert torch.equal(copy.deepcopy(layer)(x), layer(x))
    assert "30, 20" in str(layer)


def test_groups_of_activations_follow_the_weights() -> None:
    """They are never larger than the weights' groups, and divide them."""
    assert [choose_activation_group(128, 4, size) for size in (0, 32, 128)] == [128, 32, 128]
    assert choose_activation_group(0, 4, 32) == 0
    assert [choose_activation_group(None, bits, 0) for bits in (4, 8)] == [128, 32]
    with pytest.raises(ValueError, match="multiple of 32, got 48"):
        choose_activation_group(48, 8, 0)
    with pytest.raises(ValueError, match="96 activations do not divide groups of 128"):
        choose_activation_group(96, 4, 128)


@pytest.mark.parametrize("count", [1, 4, 5, 20])
@pytest.mark.parametrize(("bits", "kind"), [(8, WeightOnlyInt8Linear), (4, WeightOnlyInt4Linear)])
def test_torch_layers_compute_what_the_reference_does(bits: int, kind: type[nn.Module], count: int) -> None:
    """In bfloat16, for few and for many rows; gradients too."""
    integers, scale, bias = random_matrix(48, 128, bits)
    reference = QuantizedLinear.from_stored(integers, scale, bias, bits)
    layer = TorchKernels(torch.bfloat16).make_quantized_linear(reference)
    assert type(layer) is kind
    x = torch.randn(1, count, 128).bfloat16()
    assert relative_error(layer(x), reference(x.float())) < BFLOAT16_ROUNDING
    graded = x.float().requires_grad_()
    (found,) = torch.autograd.grad(layer(graded).square().sum(), graded)
    (wanted,) = torch.autograd.grad(reference(graded).square().sum(), graded)
    assert relative_error(found, wanted) < BFLOAT16_ROUNDING


def test_torch_layers_leave_the_rest_to_the_reference() -> None:
    """Other dtypes, groups and sizes, and tied tables, get layers that are right everywhere."""
    for dtype, bits, group_size, out, columns in (
        (torch.float32, 8, 0, 48, 128),
        (torch.bfloat16, 4, 32, 48, 128),
        (torch.bfloat16, 4, 0, 48, 72),
        (torch.bfloat16, 4, 0, 40, 128),
        (torch.bfloat16, 8, 0, 40, 100),
    ):
        layer = QuantizedLinear.from_stored(*random_matrix(out, columns, bits, group_size), bits, group_size)
        assert TorchKernels(dtype).make_quantized_linear(layer) is None
    integers, scale, _ = random_matrix(50, 64, 8)
    embedding, head = make_quantized_table(integers, scale, 8)
    assert TorchKernels(torch.bfloat16).make_tied_table(embedding, head) == (None, None)
