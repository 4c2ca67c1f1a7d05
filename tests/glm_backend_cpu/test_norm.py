"""LayerNorm of the kernel library, against torch's in float64."""

from __future__ import annotations

import pytest
import torch
from backend_cases import relative_error
from glm_backend_cpu._native import Native
from glm_backend_cpu._norm import NativeLayerNorm, normalize
from torch import nn
from torch.nn import functional as F

DTYPES = (torch.float32, torch.bfloat16, torch.float16)
ROUNDING = {torch.float32: 2e-6, torch.bfloat16: 4e-3, torch.float16: 6e-4}


def layer(width: int, dtype: torch.dtype) -> nn.LayerNorm:
    """A norm with random weights that want no gradient."""
    torch.manual_seed(width)
    norm = nn.LayerNorm(width).requires_grad_(False)
    norm.weight.copy_(torch.randn(width))
    norm.bias.copy_(torch.randn(width))
    return norm.to(dtype)


@pytest.mark.parametrize("width", [4096, 64, 37, 5, 16])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_norm_matches_torch(native: Native, width: int, dtype: torch.dtype) -> None:
    """Odd widths, a mean far from 0 and strided rows included."""
    norm = layer(width, dtype)
    ours = NativeLayerNorm(native, norm)
    x = (torch.randn(3, 7, width) * 2 + 5).to(dtype)
    wanted = F.layer_norm(x.double(), (width,), norm.weight.double(), norm.bias.double(), norm.eps)
    assert relative_error(ours(x), wanted) < ROUNDING[dtype]
    wide = torch.randn(6, 2 * width + 1).to(dtype)
    assert torch.equal(ours(wide[::2, 1 : width + 1]), ours(wide[::2, 1 : width + 1].contiguous()))
    assert ours(x[:0]).shape == (0, 7, width)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_sum_is_normalised_in_one_go(native: Native, dtype: torch.dtype) -> None:
    """The sum alpha x + residual is formed in float32 and normalised without being rounded."""
    norm = layer(100, dtype)
    x, residual = torch.randn(4, 100).to(dtype), torch.randn(4, 100).to(dtype)
    total = 7.5 * x.double() + residual.double()
    wanted = F.layer_norm(total, (100,), norm.weight.double(), norm.bias.double(), norm.eps)
    assert (
        relative_error(NativeLayerNorm(native, norm).forward_sum(x, residual, 7.5), wanted) < ROUNDING[dtype]
    )


def test_root_mean_square_norm(native: Native) -> None:
    """Without a mean and a bias it is RMSNorm."""
    x, weight = torch.randn(5, 70), torch.randn(70)
    wanted = F.rms_norm(x.double(), (70,), weight.double(), 1e-5)
    assert relative_error(normalize(native, x, weight, None, 1e-5, rms=True), wanted) < 2e-6


def test_a_row_is_normalised_the_same_in_every_batch(native: Native) -> None:
    """One row, few and so many that threads share them give the same bits."""
    norm = NativeLayerNorm(native, layer(512, torch.bfloat16))
    x = torch.randn(300, 512).bfloat16()
    together = norm(x)
    assert torch.equal(torch.cat([norm(row.unsqueeze(0)) for row in x]), together)
    native.threads = 3
    assert torch.equal(norm(x), together)


def test_constant_rows_give_the_bias(native: Native) -> None:
    """A row without variance is divided by the epsilon's root and never by 0."""
    norm = layer(48, torch.float32)
    assert torch.allclose(NativeLayerNorm(native, norm)(torch.zeros(2, 48)), norm.bias.expand(2, 48))


def test_gradients_and_other_dtypes_go_to_torch(fastest: Native) -> None:
    """Where a gradient is asked for it is right, and float64 is computed in float64."""
    norm = layer(32, torch.float32)
    ours = NativeLayerNorm(fastest, norm)
    x = torch.randn(3, 32, requires_grad=True)
    (found,) = torch.autograd.grad(ours(x).square().sum(), x)
    (wanted,) = torch.autograd.grad(norm(x).square().sum(), x)
    assert torch.equal(found, wanted)
    (found,) = torch.autograd.grad(ours.forward_sum(x, x.detach(), 2.0).square().sum(), x)
    (wanted,) = torch.autograd.grad(norm(2.0 * x + x.detach()).square().sum(), x)
    assert torch.allclose(found, wanted, atol=1e-5)
    with pytest.raises(RuntimeError, match="normalized_shape"):
        ours(torch.randn(3, 31))
    double = layer(32, torch.float64)
    assert torch.equal(NativeLayerNorm(fastest, double)(x.double()), double(x.double()))
