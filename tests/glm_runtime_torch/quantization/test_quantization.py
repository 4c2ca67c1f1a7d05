"""The quantised format, bit by bit against the original's."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from glm_runtime_torch.loading import open_source
from glm_runtime_torch.model.torch_model import TorchModel
from glm_runtime_torch.quantization import (
    SCHEMES,
    TABLE_SCHEME,
    QuantizedEmbedding,
    QuantizedLinear,
    StoredForm,
    dequantize_rows,
    make_quantized_table,
    pack_int4,
    quantize_rows,
    unpack_int4,
)
from goldens import DATA, Case, named
from tiny_models import open_with_prompt, tiny_checkpoint

from glm_core import CheckpointError, ConfigError
from glm_core.records import ModelSource, QuantizationScheme


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


@pytest.mark.parametrize(
    ("bits", "in_features", "group_size", "message"),
    [
        (3, 2, 0, "bits must be 8 or 4, got 3"),
        (4, 3, 0, "3 is odd"),
        (4, 96, 48, "groups have 32, 64 or 128 input features, got 48"),
        (4, 192, 128, "192 input features do not divide into groups of 128; groups of 32 or 64 do"),
        (4, 24, 32, "24 input features do not divide into groups of 32; leave groups out"),
        (8, 64, 32, "int8 has one scale per row, got groups of 32"),
    ],
)
def test_what_the_format_cannot_store_is_refused(
    bits: int, in_features: int, group_size: int, message: str
) -> None:
    """Other bits, odd columns and groups that do not fit raise ValueError, for matrices and layers alike."""
    with pytest.raises(ValueError, match=message):
        quantize_rows(torch.ones(2, in_features), bits, group_size)
    with pytest.raises(ValueError, match=message):
        QuantizedLinear(in_features, 2, bits, bias=False, group_size=group_size)
    with pytest.raises(ValueError, match=message):
        QuantizedEmbedding(2, in_features, bits, group_size=group_size)


@pytest.mark.parametrize("group_size", [32, 64, 128])
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
def test_groups_are_rows_of_their_own(group_size: int, dtype: torch.dtype) -> None:
    """Each group of a row is stored as a short row would be, scale and packed integers alike."""
    torch.manual_seed(0)
    weight = torch.randn(6, 256).to(dtype)
    stored, scale = quantize_rows(weight, 4, group_size)
    short, short_scale = quantize_rows(weight.view(-1, group_size), 4)
    assert (stored.shape, scale.shape, scale.dtype) == ((6, 128), (6, 256 // group_size), dtype)
    assert torch.equal(stored.view(-1, group_size // 2), short)
    assert torch.equal(scale.flatten(), short_scale)
    restored = dequantize_rows(stored, scale, 4, torch.float32, group_size)
    assert torch.equal(restored.view(-1, group_size), dequantize_rows(short, short_scale, 4, torch.float32))


def test_smaller_groups_are_more_exact() -> None:
    """The error falls from one scale per row to groups of 128, 64 and 32."""
    torch.manual_seed(0)
    weight = torch.randn(16, 1024)
    errors = [
        (dequantize_rows(*quantize_rows(weight, 4, size), 4, torch.float32, size) - weight).norm().item()
        for size in (0, 128, 64, 32)
    ]
    assert errors == sorted(errors, reverse=True)
    assert errors[3] < 0.8 * errors[0]


def test_zeros_stay_zeros_in_every_scheme() -> None:
    """A row of zeros and a group of zeros have scale 0 and give zeros, not NaN."""
    for scheme in map(QuantizationScheme.parse, SCHEMES):
        weight = torch.randn(3, 128).half()
        weight[1] = 0
        weight[2, :32] = 0
        stored, scale = quantize_rows(weight, scheme.bits, scheme.group_size)
        restored = dequantize_rows(stored, scale, scheme.bits, torch.float32, scheme.group_size)
        assert restored.isfinite().all()
        assert not restored[1].any()
        assert not restored[2, :32].any()
        assert not scale[1].any()


def test_rows_so_small_that_float16_rounds_their_scale_do_not_overflow() -> None:
    """The largest weights keep their sign where a float16 scale is far too small."""
    weight = torch.full((1, 2), 6e-7).half()  # a seventh of it has one bit left in float16
    weight[0, 1] = -weight[0, 1]
    for bits in (8, 4):
        restored = dequantize_rows(*quantize_rows(weight, bits), bits, torch.float32)
        assert restored[0, 0] >= 0 >= restored[0, 1]


@pytest.mark.parametrize("scheme", SCHEMES)
def test_bfloat16_weights_are_rounded_as_exactly_as_float32_ones(scheme: str) -> None:
    """Scales of bfloat16 weights are float32: eight bits of scale would double the error of int8."""
    wanted = QuantizationScheme.parse(scheme)
    weight = torch.randn(8, 128).bfloat16()
    stored, scale = quantize_rows(weight, wanted.bits, wanted.group_size)
    exact, exact_scale = quantize_rows(weight.float(), wanted.bits, wanted.group_size)
    assert torch.equal(stored, exact)
    assert torch.equal(scale, exact_scale)


@pytest.mark.parametrize("group_size", [0, 32])
def test_layers_with_groups_equal_the_dequantised_matrix(group_size: int) -> None:
    """The reference's linear layer, embedding and head compute with the dequantised matrix."""
    torch.manual_seed(0)
    weight, bias, x = torch.randn(6, 64), torch.randn(6), torch.randn(3, 64)
    stored, scale = quantize_rows(weight, 4, group_size)
    matrix = dequantize_rows(stored, scale, 4, torch.float32, group_size)
    layer: Any = QuantizedLinear.from_stored(stored, scale, bias, 4, group_size)
    facts = (layer.in_features, layer.out_features, layer.bits, layer.group_size)
    assert facts == (64, 6, 4, group_size)
    torch.testing.assert_close(layer(x), torch.nn.functional.linear(x, matrix, bias))
    embedding, head = make_quantized_table(stored, scale, 4, group_size)
    assert embedding.weight is head.weight
    assert embedding.weight_scale is head.weight_scale
    ids = torch.tensor([[1, 5], [0, 1]])
    assert torch.equal(embedding(ids), matrix[ids])
    torch.testing.assert_close(head(x), x @ matrix.T)


@pytest.mark.parametrize(
    ("config", "form"),
    [
        ({}, StoredForm()),
        ({"quantization_bit": 0, "quantization_group_size": 32}, StoredForm()),
        ({"quantization_bit": 4, "quantization_embeddings": True}, StoredForm(4, 0, True)),
        ({"quantization_bit": 4, "quantization_group_size": 64}, StoredForm(4, 64)),
        ({"quantization_bit": 8, "quantization_group_size": None}, StoredForm(8)),
    ],
)
def test_config_says_how_weights_are_stored(config: dict[str, Any], form: StoredForm) -> None:
    """The published keys and our own; what is written is read back."""
    assert StoredForm.from_config(config) == form
    assert StoredForm.from_config(form.as_config()) == form


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"quantization_bit": 3}, "quantization_bit: bits must be 8 or 4, got 3"),
        ({"quantization_bit": 4, "quantization_group_size": 7}, "quantization_group_size: groups have 32"),
        ({"quantization_bit": 8, "quantization_group_size": 32}, "quantization_group_size: int8 has one"),
    ],
)
def test_a_configuration_that_no_checkpoint_can_have_is_refused(config: dict[str, Any], message: str) -> None:
    """The key is named."""
    with pytest.raises(ValueError, match=message):
        StoredForm.from_config(config)


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_checkpoint(tmp_path_factory.mktemp("model") / "tiny")


def opened(directory: Path) -> TorchModel:
    model = open_source(ModelSource("tiny", directory), "float32")
    assert isinstance(model, TorchModel)
    return model


@pytest.mark.parametrize("materialize_first", [False, True])
def test_the_table_is_quantised_with_the_blocks_on_demand(directory: Path, materialize_first: bool) -> None:
    """Straight from files or in memory: embedding and head share one table, in a scheme of its own."""
    model = opened(directory)
    exact = opened(directory)
    exact.materialize(torch.device("cpu"))
    table = exact.network.transformer.word_embeddings.weight
    if materialize_first:
        model.materialize(torch.device("cpu"))
        model._checkpoint = None
    model.quantize(QuantizationScheme(4, 32), embeddings=TABLE_SCHEME)
    model.materialize(torch.device("cpu"))
    embedding, head = model.network.transformer.word_embeddings, model.network.lm_head
    assert isinstance(embedding, QuantizedEmbedding)
    assert isinstance(head, QuantizedLinear)
    assert head.weight is embedding.weight
    # float16 files are divided in float16, as the original does: up to a sixteenth of a step more
    error = (embedding(torch.arange(len(table))) - table).abs()  # type: ignore[arg-type]
    assert (error <= 0.57 * embedding.weight_scale.unsqueeze(1)).all()
    assert model.count_weight_bytes() < 0.5 * exact.count_weight_bytes()


def test_the_table_stays_as_it_is_without_being_asked(directory: Path) -> None:
    """quantize(4) is the original's: blocks only."""
    model = opened(directory)
    model.quantize(4)
    assert isinstance(model.network.transformer.word_embeddings, torch.nn.Embedding)
    assert isinstance(model.network.lm_head, torch.nn.Linear)


@pytest.mark.parametrize(
    ("scheme", "message"),
    [
        ("int4-g64", r"--quantize int4-g64: transformer\.layers\.0\.attention\.query_key_value: 32 input "),
        ("int3", r"--quantize int3: bits must be 8 or 4, got 3"),
    ],
)
def test_a_scheme_that_does_not_suit_the_model_changes_nothing(
    directory: Path, scheme: str, message: str
) -> None:
    """One sentence that names the layer, and the model is as it was."""
    model = opened(directory)
    with pytest.raises(ConfigError, match=message):
        model.quantize(QuantizationScheme.parse(scheme))
    assert not any(isinstance(module, QuantizedLinear) for module in model.network.modules())


def test_a_quantised_model_is_not_quantised_again() -> None:
    """Neither its blocks nor its table."""
    model = open_with_prompt(DATA / "quantization" / "ckpt-int4-qe", [1])
    with pytest.raises(CheckpointError, match="is quantised already"):
        model.quantize(QuantizationScheme(8), embeddings=TABLE_SCHEME)
    model.close()
