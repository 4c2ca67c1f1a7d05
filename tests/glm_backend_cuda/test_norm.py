"""LayerNorm with Triton, in its interpreter, against PyTorch's in float64."""

from __future__ import annotations

import pytest
import torch
from glm_runtime_torch.network.fused import normalize_sum
from torch import nn

pytest.importorskip("triton", reason="Triton is not installed")

from glm_backend_cuda._norm import TritonLayerNorm

ROUNDING = {torch.float32: 1e-6, torch.float16: 5e-4, torch.bfloat16: 4e-3}


def norm_of(width: int, dtype: torch.dtype) -> nn.LayerNorm:
    """A norm with random weights."""
    norm = nn.LayerNorm(width, 1e-5)
    nn.init.normal_(norm.weight)
    nn.init.normal_(norm.bias)
    return norm.to(dtype).requires_grad_(False)


@pytest.mark.parametrize("width", [64, 100, 1])
@pytest.mark.parametrize("dtype", ROUNDING, ids=str)
def test_rows_are_normalised(dtype: torch.dtype, width: int) -> None:
    """Around a mean far from zero, with the sum of a deep-norm block and without."""
    torch.manual_seed(width)
    norm = norm_of(width, dtype)
    ours, exact = TritonLayerNorm(norm), norm_of(width, torch.float64)
    exact.load_state_dict(norm.state_dict())
    x, residual = (torch.randn(2, 3, width) + 5).to(dtype), torch.randn(2, 3, width).to(dtype)
    for found, wanted in (
        (ours(x), exact(x.double())),
        (normalize_sum(ours, x, residual, 7.5), exact(7.5 * x.double() + residual.double())),
    ):
        assert found.dtype == dtype
        assert (found.double() - wanted).norm() < 2 * ROUNDING[dtype] * wanted.norm()


def test_a_row_is_normalised_the_same_in_every_batch() -> None:
    """Its bits do not depend on the other rows."""
    ours = TritonLayerNorm(norm_of(96, torch.float16))
    x = torch.randn(5, 96).half()
    assert torch.equal(ours(x)[3:], ours(x[3:]))
    assert ours(x[:0]).shape == (0, 96)


def test_the_rest_is_left_to_torch() -> None:
    """Gradients, another dtype, and shapes that must be stretched."""
    norm = norm_of(32, torch.float32)
    ours = TritonLayerNorm(norm)
    x = torch.randn(3, 32, requires_grad=True)
    for found, wanted in (
        (ours(x), norm(x)),
        (normalize_sum(ours, x, x, 2.0), norm(x + 2 * x)),
        (normalize_sum(ours, x.detach(), x[:1].detach(), 2.0), norm(x[:1] + 2 * x)),
    ):
        assert torch.allclose(found, wanted, atol=1e-6)
    (gradient,) = torch.autograd.grad(ours(x).square().sum(), x)
    (expected,) = torch.autograd.grad(norm(x).square().sum(), x)
    assert torch.equal(gradient, expected)
