"""Rotary tables against the original's."""

from __future__ import annotations

import pytest
import torch
from glm_runtime_torch.network.rotary import RotaryEmbedding, rotate_split_half
from goldens import Case, cases, named

V1 = "chatglm-6b"
# float16 rounds the cosine of one and the same angle to either neighbour: one step at 1.0
TOLERANCE = {"fp32": (torch.float32, 1e-6), "fp16": (torch.float16, 1e-3)}


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
@pytest.mark.parametrize("case", named(V1, "rotary", at_least=2))
def test_tables_equal_the_original(case: Case, precision: str) -> None:
    """Cosines and sines of tiny and real size agree, in float32 and float16."""
    if f"cos_{precision}" not in case.tensors:
        pytest.skip("the original's table of this size is in float32 only")
    dtype, tolerance = TOLERANCE[precision]
    cos, sin = case[f"cos_{precision}"], case[f"sin_{precision}"]
    positions = case.tensors.get("positions", torch.arange(cos.shape[0]))
    rotary = RotaryEmbedding(cos.shape[-1], half_precision_frequencies=True)
    ours = rotary.compute_cos_sin(positions, dtype)
    torch.testing.assert_close(ours[0].float(), cos.float(), rtol=0, atol=tolerance)
    torch.testing.assert_close(ours[1].float(), sin.float(), rtol=0, atol=tolerance)


def test_bfloat16_angles_are_computed_in_float32() -> None:
    """Positions that bfloat16 cannot tell apart still have different tables."""
    cos, _ = RotaryEmbedding(8).compute_cos_sin(torch.tensor([1000, 1001]), torch.bfloat16)
    assert not torch.equal(cos[0], cos[1])


def test_rotation_keeps_lengths() -> None:
    """Turning does not change a vector's norm, and position 0 changes nothing."""
    x = torch.randn(5, 8)
    cos, sin = RotaryEmbedding(8).compute_cos_sin(torch.tensor([0, 1, 7, 100, 2047]), torch.float32)
    turned = rotate_split_half(x, cos, sin)
    torch.testing.assert_close(turned.norm(dim=-1), x.norm(dim=-1))
    assert torch.equal(turned[0], x[0])


def test_every_kind_of_golden_case_has_a_test() -> None:
    """A kind of case that nobody tests would fail here."""
    assert {case.kind for case in cases(V1)} == {
        *("forward", "hidden_states", "incremental", "greedy", "beam"),
        *("invalid_scores", "sampling", "train", "prefix_kv", "rotary"),
    }
