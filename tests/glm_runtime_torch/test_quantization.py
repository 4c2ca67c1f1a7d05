"""The quantised format, bit by bit against the original's."""

from __future__ import annotations

import pytest
import torch
from glm_runtime_torch.quantization import (
    QuantizedEmbedding,
    QuantizedLinear,
    dequantize_rows,
    pack_int4,
    quantize_rows,
    unpack_int4,
)
from goldens import Case, named


@pytest.mark.parametrize("case", named("quantization", "quantize", at_least=4))
def test_integers_and_scales_are_bit_equal_to_the_original(case: Case) -> None:
    """Stored bytes, scales and dequantised values are the original's; a zero row gives zeros."""
    bits = case.settings["bits"]
    stored, scale = quantize_rows(case["weight"], bits)
    zero = case.settings["zero_row"]
    assert scale.dtype == case["weight"].dtype
    assert torch.equal(scale, case["weight_scale"].view(-1))
    assert torch.equal(stored, case["weight_quantized"])
    dequantized = dequantize_rows(stored, scale, bits, torch.float32)
    assert torch.equal(dequantized, case["dequantized_fp32"])
    assert not dequantized[zero].any()


@pytest.mark.parametrize("case", named("quantization", "pack", at_least=1))
def test_packing_equals_the_original_for_all_pairs(case: Case) -> None:
    """The even column is the high nibble, both signed; unpacking inverts it."""
    packed = pack_int4(case["pairs"])
    assert torch.equal(packed.flatten(), case["packed"])
    assert torch.equal(unpack_int4(packed), case["pairs"])


@pytest.mark.parametrize("bits", [8, 4])
def test_layer_equals_the_dequantised_matrix(bits: int) -> None:
    """A quantised layer computes what a plain layer with the dequantised weights computes."""
    torch.manual_seed(0)
    weight, bias, x = torch.randn(6, 10), torch.randn(6), torch.randn(3, 2, 10)
    stored, scale = quantize_rows(weight, bits)
    layer = QuantizedLinear.from_stored(stored, scale, bias, bits)
    expected = torch.nn.functional.linear(x, dequantize_rows(stored, scale, bits, torch.float32), bias)
    torch.testing.assert_close(layer(x), expected)
    half_step = scale.max() / 2
    assert (dequantize_rows(stored, scale, bits, torch.float32) - weight).abs().max() <= half_step * 1.0001


def test_embedding_looks_up_dequantised_rows() -> None:
    """Rows of a quantised embedding are the dequantised rows."""
    weight = torch.randn(7, 4)
    embedding = QuantizedEmbedding(7, 4, 4)
    stored, scale = quantize_rows(weight, 4)
    embedding.weight.data, embedding.weight_scale.data = stored, scale
    ids = torch.tensor([[1, 6], [0, 1]])
    torch.testing.assert_close(embedding(ids), dequantize_rows(stored, scale, 4, torch.float32)[ids])


def test_other_bits_and_odd_columns_are_refused() -> None:
    """Bits other than 8 and 4, and int4 of an odd number of columns, raise ValueError."""
    with pytest.raises(ValueError, match="bits must be 8 or 4, got 3"):
        quantize_rows(torch.ones(2, 2), 3)
    with pytest.raises(ValueError, match="3 is odd"):
        quantize_rows(torch.ones(2, 3), 4)
