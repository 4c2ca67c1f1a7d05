"""Weights that other programs quantised: read as what they mean or refused, never taken as they are."""

from __future__ import annotations

import logging
import shutil
from pathlib import Path
from typing import Any

import glm_runtime_torch  # noqa: F401 - registers the auto classes
import pytest
import torch
from foreign_weights import ENCODINGS, add_to_config, is_block_matrix, state_compressed, write_encoded
from glm_runtime_torch.checkpoints.stored_scale import PLAIN_DTYPES, SAFETENSORS_DTYPES, StoredScale
from glm_runtime_torch.loading import open_source
from glm_runtime_torch.model.torch_model import TorchModel
from glm_runtime_torch.quantize_job.job import quantize_checkpoint
from hypothesis import given, settings, strategies as st
from safetensors.torch import load_file, save_file
from tiny_families import MAKERS
from tiny_models import tiny_checkpoint
from transformers import AutoModel
from transformers.quantizers.auto import AUTO_QUANTIZATION_CONFIG_MAPPING

from glm_core import CheckpointError
from glm_core.cli import main
from glm_core.records import ModelSource, QuantizationScheme, QuantizeJob

CPU = torch.device("cpu")
# What a matrix of the blocks may be stored in by mistake or by somebody else: everything but plain numbers.
STRANGE_DTYPES = sorted({*SAFETENSORS_DTYPES.values()} - {*PLAIN_DTYPES}, key=str)


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny float16 model of the first family."""
    return tiny_checkpoint(tmp_path_factory.mktemp("scaled") / "tiny")


def open_model(directory: Path) -> TorchModel:
    """Open a checkpoint as ``glm`` does."""
    model = open_source(ModelSource("tiny", directory), "float32")
    assert model is not None
    return model


def read_parameters(directory: Path, scheme: QuantizationScheme | None = None) -> dict[str, torch.Tensor]:
    """Every parameter of a loaded model, in the order of its network."""
    model = open_model(directory)
    if scheme is not None:
        model.quantize(scheme)
    model.materialize(CPU)
    return dict(model.network.named_parameters())


def assert_weights(found: dict[str, torch.Tensor], meant: dict[str, torch.Tensor]) -> None:
    """Compare weights by name; the only rounding that may differ is that of one product in float32."""
    assert found
    for key, value in found.items():
        torch.testing.assert_close(value, meant[key], rtol=1e-6, atol=0, msg=f"{key} differs")


def write_plain(source: Path, target: Path, weights: dict[str, torch.Tensor]) -> Path:
    """A float32 checkpoint of the given weights."""
    shutil.copytree(source, target)
    save_file(weights, target / "model.safetensors")
    return target


@pytest.mark.parametrize("name", ENCODINGS)
def test_exact_formats_are_read_as_the_weights_that_they_mean(
    name: str, source: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Every parameter is number times scale in float32, and one notice says what was done."""
    meant = write_encoded(source, tmp_path / "encoded", ENCODINGS[name])
    with caplog.at_level(logging.WARNING, "glm"):
        found = read_parameters(tmp_path / "encoded")
    assert [record.message for record in caplog.records if "with scales" in record.message]
    assert_weights(found, meant)


@pytest.mark.parametrize("family", MAKERS)
@pytest.mark.parametrize("name", ["compressed-tensors float8", "bitsandbytes"])
def test_exact_formats_of_every_family(name: str, family: str, tmp_path: Path) -> None:
    """The matrices of every family's blocks, experts included, come as they are meant."""
    directory = MAKERS[family](tmp_path / "plain")
    meant = write_encoded(directory, tmp_path / "encoded", ENCODINGS[name])
    found = read_parameters(tmp_path / "encoded")
    assert any(is_block_matrix(key, value) for key, value in found.items())
    assert_weights(found, meant)


@pytest.mark.parametrize("name", ENCODINGS)
def test_auto_model_reads_the_same(name: str, source: Path, tmp_path: Path) -> None:
    """Transformers' own loading gives the weights that ``glm`` gives."""
    meant = write_encoded(source, tmp_path / "encoded", ENCODINGS[name])
    model = AutoModel.from_pretrained(tmp_path / "encoded", dtype=torch.float32)
    assert_weights(dict(model.named_parameters()), meant)
    model.save_pretrained(tmp_path / "saved")
    assert "quantization_config" not in (tmp_path / "saved" / "config.json").read_text("utf-8")


@pytest.mark.parametrize("bits", [8, 4])
@pytest.mark.parametrize("name", ["fp8 blocks", "compressed-tensors int8", "ours, not stated"])
def test_exact_formats_are_quantised_like_the_weights_that_they_mean(
    name: str, bits: int, source: Path, tmp_path: Path
) -> None:
    """``--quantize`` and ``glm quantize`` of such a model store what they store of the plain float32 one."""
    meant = write_encoded(source, tmp_path / "encoded", ENCODINGS[name])
    plain = write_plain(source, tmp_path / "plain", meant)
    expected = read_parameters(plain, QuantizationScheme(bits))
    found = read_parameters(tmp_path / "encoded", QuantizationScheme(bits))
    assert main(["quantize", str(tmp_path / "encoded"), str(tmp_path / "copy"), "--bits", str(bits)]) == 0
    copy = read_parameters(tmp_path / "copy")
    assert expected.keys() == found.keys() == copy.keys()
    for key, value in expected.items():
        assert torch.equal(found[key], value), key
        assert torch.equal(copy[key], value), key
    stored = load_file(tmp_path / "copy" / "model.safetensors")
    # What meant something in the source's format only is left out; our own scales have one of its names.
    assert {key.rpartition(".")[2] for key in stored} <= {"weight", "weight_scale", "bias"}


@pytest.mark.parametrize("form", ["safetensors", "bin"])
@pytest.mark.parametrize("dtype", STRANGE_DTYPES, ids=str)
@pytest.mark.parametrize(
    "name",
    [
        "transformer.layers.0.attention.query_key_value.weight",
        "transformer.layers.1.input_layernorm.bias",
        "transformer.word_embeddings.weight",
    ],
)
def test_a_parameter_of_another_dtype_is_refused(
    name: str, dtype: torch.dtype, form: str, source: Path, tmp_path: Path
) -> None:
    """Neither ``glm`` nor ``AutoModel`` takes integers, float8 or complex numbers for weights."""
    copy = tmp_path / "copy"
    shutil.copytree(source, copy)
    state = load_file(copy / "model.safetensors")
    state[name] = (
        torch.zeros(state[name].shape, dtype=torch.uint8).view(torch.uint8).to(torch.float32).to(dtype)
    )
    (copy / "model.safetensors").unlink()
    if form == "bin":
        torch.save(state, copy / "pytorch_model.bin")
    else:
        save_file(state, copy / "model.safetensors")
    kind = str(dtype).removeprefix("torch.")
    with pytest.raises(CheckpointError, match=rf"{name} holds {kind} numbers"):
        open_model(copy)
    with pytest.raises(CheckpointError, match=rf"{name} holds {kind} numbers"):
        AutoModel.from_pretrained(copy)
    with pytest.raises(CheckpointError, match=rf"{name} holds {kind} numbers"):
        quantize_checkpoint(ModelSource("tiny", copy), QuantizeJob(tmp_path / "out", QuantizationScheme(8)))


@pytest.mark.parametrize("dtype", SAFETENSORS_DTYPES.values(), ids=SAFETENSORS_DTYPES)
def test_a_tensor_that_nobody_reads_may_have_any_known_dtype(
    dtype: torch.dtype, source: Path, tmp_path: Path
) -> None:
    """A buffer that the network does not have is left alone, whatever its numbers are."""
    copy = tmp_path / "copy"
    shutil.copytree(source, copy)
    state = load_file(copy / "model.safetensors")
    bits = torch.zeros(8, dtype=torch.uint8)
    save_file({**state, "transformer.statistics": bits.view(dtype)}, copy / "model.safetensors")
    assert read_parameters(copy).keys() == read_parameters(source).keys()


@pytest.mark.parametrize("stored", ["F4", "F6_E2M3"])
def test_a_dtype_that_is_not_known_is_named_even_where_nobody_reads_it(
    stored: str, source: Path, tmp_path: Path
) -> None:
    """A dtype that only the format knows is one sentence with the tensor's and the dtype's name."""
    copy = tmp_path / "copy"
    shutil.copytree(source, copy)
    content = (copy / "model.safetensors").read_bytes()
    length = int.from_bytes(content[:8], "little")
    (copy / "model.safetensors").unlink()
    size = {"F4": 4, "F6_E2M3": 6}[stored]
    end = len(content) - 8 - length
    header = content[8 : 8 + length].rstrip()[:-1]
    header += f',"x":{{"dtype":"{stored}","shape":[8],"data_offsets":[{end},{end + size}]}}}}'.encode()
    data = len(header).to_bytes(8, "little") + header + content[8 + length :] + bytes(size)
    (copy / "model.safetensors").write_bytes(data)
    with pytest.raises(CheckpointError, match=rf"tensor x holds {stored}"):
        open_model(copy)


# Entries as the programs write them, and the tensors that they put in a matrix's place.
FOREIGN: dict[str, tuple[dict[str, Any], dict[str, torch.dtype]]] = {
    "GPTQ": (
        {"quantization_config": {"quant_method": "gptq", "bits": 4, "group_size": 128}},
        dict.fromkeys(("qweight", "qzeros", "g_idx"), torch.int32) | {"scales": torch.float16},
    ),
    "AWQ": (
        {"quantization_config": {"quant_method": "awq", "bits": 4, "version": "gemm"}},
        dict.fromkeys(("qweight", "qzeros"), torch.int32) | {"scales": torch.float16},
    ),
    "bitsandbytes 4-bit": (
        {"quantization_config": {"quant_method": "bitsandbytes", "load_in_4bit": True}},
        dict.fromkeys(("weight", "weight.absmax", "weight.quant_state.bitsandbytes__nf4"), torch.uint8),
    ),
    "compressed-tensors": (
        state_compressed({"num_bits": 4, "type": "int"}, format="pack-quantized"),
        {"weight_packed": torch.int32, "weight_scale": torch.bfloat16, "weight_shape": torch.int64},
    ),
    "NVFP4": (
        {"quantization_config": {"quant_method": "modelopt", "quant_algo": "NVFP4"}},
        {"weight": torch.uint8, "weight_scale": torch.float8_e4m3fn, "weight_scale_2": torch.float32},
    ),
    "HQQ": ({"quantization_config": {"quant_method": "hqq"}}, {"W_q": torch.uint8, "meta": torch.uint8}),
    "EETQ": (
        {"quantization_config": {"quant_method": "eetq"}},
        {"weight": torch.int8, "weight_scales": torch.float16},
    ),
    "quanto": (
        {"quantization_config": {"quant_method": "quanto"}},
        {"weight._data": torch.int8, "weight._scale": torch.float16},
    ),
    "torchao": (
        {"quantization_config": {"quant_method": "torchao"}},
        {"_weight_qdata": torch.int8, "_weight_scale": torch.float16},
    ),
    "MLX": (
        {"quantization": {"group_size": 64, "bits": 4}},
        {"weight": torch.uint32, "scales": torch.float16, "biases": torch.float16},
    ),
}


@pytest.mark.parametrize("is_stated", [True, False])
@pytest.mark.parametrize("name", FOREIGN)
def test_formats_that_cannot_be_read_are_named(
    name: str, is_stated: bool, source: Path, tmp_path: Path
) -> None:
    """By ``config.json`` or by the tensors alone: the format's name and what to take instead."""
    entries, parts = FOREIGN[name]
    copy = tmp_path / "copy"
    shutil.copytree(source, copy)
    state: dict[str, torch.Tensor] = {}
    for key, value in load_file(source / "model.safetensors").items():
        if not is_block_matrix(key, value):
            state[key] = value
            continue
        for end, dtype in parts.items():
            state[f"{key.removesuffix('weight')}{end}"] = torch.ones(4, 4).to(dtype)
    save_file(state, copy / "model.safetensors")
    if is_stated:
        add_to_config(copy, entries)
    with pytest.raises(CheckpointError, match=rf"{name}(?s:.*)original"):
        open_model(copy)
    with pytest.raises(CheckpointError, match=rf"{name}(?s:.*)original"):
        AutoModel.from_pretrained(copy)


@pytest.mark.parametrize("method", [*AUTO_QUANTIZATION_CONFIG_MAPPING, "exl2", "some_day", 3, None])
def test_every_stated_method_is_read_or_refused(method: object, source: Path, tmp_path: Path) -> None:
    """Whatever method is stated, int8 matrices without scales are never taken for weights."""
    copy = tmp_path / "copy"
    shutil.copytree(source, copy)
    state = {
        key: value.to(torch.int8) if is_block_matrix(key, value) else value
        for key, value in load_file(source / "model.safetensors").items()
    }
    save_file(state, copy / "model.safetensors")
    add_to_config(copy, {"quantization_config": {"quant_method": method, "bits": 8}})
    with pytest.raises(CheckpointError, match="quantised with"):
        open_model(copy)
    with pytest.raises(CheckpointError, match="quantised with"):
        AutoModel.from_pretrained(copy)


@pytest.mark.parametrize("value", [[], "fp8", 3, True, [{"quant_method": "fp8"}]])
def test_an_entry_that_is_no_object_is_refused(value: object, source: Path, tmp_path: Path) -> None:
    """A malformed ``quantization_config`` is a sentence with its key and value."""
    copy = tmp_path / "copy"
    shutil.copytree(source, copy)
    add_to_config(copy, {"quantization_config": value})
    with pytest.raises(CheckpointError, match=r"config\.json(?s:.*)quantization_config"):
        open_model(copy)
    with pytest.raises(CheckpointError, match="quantization_config"):
        AutoModel.from_pretrained(copy)


@pytest.mark.parametrize("entries", [{}, None, {"quant_method": "compressed-tensors", "kv_cache_scheme": {}}])
def test_an_entry_that_concerns_no_weight_changes_nothing(
    entries: object, source: Path, tmp_path: Path
) -> None:
    """Plain weights load as ever where the entry is empty or speaks of the KV cache only."""
    copy = tmp_path / "copy"
    shutil.copytree(source, copy)
    add_to_config(copy, {"quantization_config": entries})
    expected = read_parameters(source)
    for key, value in read_parameters(copy).items():
        assert torch.equal(value, expected[key])


NAME = "transformer.layers.0.mlp.dense_h_to_4h"  # a matrix of 128 rows and 32 columns


@pytest.mark.parametrize(
    ("parts", "words"),
    [
        ({"weight_zero_point": torch.ones(128, 1, dtype=torch.int8)}, "zero points"),
        ({"pre_quant_scale": torch.ones(32)}, "pre_quant_scale"),
        ({"SCB": torch.ones(128)}, "SCB"),
        ({"weight_scale": torch.ones(128, 1, dtype=torch.float8_e4m3fn)}, "float8"),
        ({"weight_scale": torch.ones(127)}, "shape"),
        ({"weight_scale": torch.ones(32)}, "shape"),
        ({"weight_scale": torch.ones(128, 5)}, "shape"),
        ({"weight_scale": torch.ones(0)}, "shape"),
        ({"weight_scale": torch.ones(64, 32)}, "shape"),
    ],
)
def test_scales_that_leave_open_what_is_meant_are_refused(
    parts: dict[str, torch.Tensor], words: str, source: Path, tmp_path: Path
) -> None:
    """Zero points, smoothing, two scales at once and shapes that fit no division of the matrix."""
    write_encoded(source, tmp_path / "encoded", ENCODINGS["ours, not stated"])
    state = load_file(tmp_path / "encoded" / "model.safetensors")
    state |= {f"{NAME}.{end}": value for end, value in parts.items()}
    save_file(state, tmp_path / "encoded" / "model.safetensors")
    with pytest.raises(CheckpointError, match=words):
        open_model(tmp_path / "encoded")


def test_int4_without_its_key_says_which_key(source: Path, tmp_path: Path) -> None:
    """Weights of our int4 whose config.json lost quantization_bit say what to add."""
    assert main(["quantize", str(source), str(tmp_path / "int4"), "--bits", "4"]) == 0
    add_to_config(tmp_path / "int4", {"quantization_bit": 0})
    with pytest.raises(CheckpointError, match='"quantization_bit": 4'):
        open_model(tmp_path / "int4")


def test_two_statements_contradict(source: Path, tmp_path: Path) -> None:
    """quantization_bit and quantization_config in one config.json are refused by both names."""
    assert main(["quantize", str(source), str(tmp_path / "int8"), "--bits", "8"]) == 0
    add_to_config(tmp_path / "int8", {"quantization_config": {"quant_method": "fp8"}})
    with pytest.raises(CheckpointError, match=r"quantization_bit(?s:.*)quantization_config"):
        open_model(tmp_path / "int8")


def test_quantization_bit_of_float_weights_is_refused(source: Path, tmp_path: Path) -> None:
    """A key that promises int8 where the weights are float16 says which to delete."""
    copy = tmp_path / "copy"
    shutil.copytree(source, copy)
    state = load_file(copy / "model.safetensors")
    scales = {
        f"{key.removesuffix('weight')}weight_scale": torch.ones(len(value))
        for key, value in state.items()
        if is_block_matrix(key, value)
    }
    save_file(state | scales, copy / "model.safetensors")
    add_to_config(copy, {"quantization_bit": 8})
    with pytest.raises(CheckpointError, match=r"float16(?s:.*)quantization_bit"):
        open_model(copy)


@given(
    rows=st.integers(1, 40),
    columns=st.integers(1, 40),
    block=st.tuples(st.integers(1, 48), st.integers(1, 48)),
    seed=st.integers(0, 2**16),
)
@settings(max_examples=60, deadline=None)
def test_blocks_of_any_size_are_decoded(rows: int, columns: int, block: tuple[int, int], seed: int) -> None:
    """Rows in any order get the scale of the block that they stand in, also at the ragged edges."""
    random = torch.Generator().manual_seed(seed)
    stored = torch.randint(-128, 128, (rows, columns), generator=random).to(torch.int8)
    grid = -(-rows // block[0]), -(-columns // block[1])
    scales = torch.rand(grid, generator=random)
    indices = torch.randperm(rows, generator=random)
    found = StoredScale("s", grid, *block).decode(stored[indices], scales, indices)
    for place, row in enumerate(indices.tolist()):
        for column in range(columns):
            scale = scales[row // block[0], column // block[1]]
            assert found[place, column] == stored[row, column].float() * scale
