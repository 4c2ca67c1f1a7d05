"""GPTQ for one matrix, and the example text that it sees."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import torch
from glm_runtime_torch.families.registry import CHATGLM
from glm_runtime_torch.quantization import dequantize_rows, quantize_rows
from glm_runtime_torch.quantization.calibration import (
    MAX_PASSAGES,
    MAX_TOKENS,
    Passage,
    Walk,
    read_passages,
)
from glm_runtime_torch.quantization.gptq import InputStatistics, quantize_with_gptq
from glm_runtime_torch.tokenizers import ChatTokenizer
from goldens import DATA, cases, network
from tiny_models import train_vocabulary
from tiny_networks import NAMES, logits_of, prompt_of, tiny_network

from glm_core import ConfigError
from glm_core.records import QuantizationScheme

SCHEMES = [QuantizationScheme(8), *(QuantizationScheme(4, size) for size in (0, 32, 64, 128))]
D, ROWS = 256, 96


def layer(outliers: bool) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """A weight, correlated inputs to calibrate with, and others to measure with."""
    torch.manual_seed(0)
    weight = torch.randn(ROWS, D) * 0.02
    x = torch.randn(2048, D) @ (0.7 * torch.randn(D, D) / D**0.5 + 0.5 * torch.eye(D))
    if outliers:
        x[:, [3, 77, 130]] *= 50
    return weight, x[:1024], x[1024:]


def statistics(x: torch.Tensor) -> InputStatistics:
    found = InputStatistics(x.shape[-1])
    found.add(x)
    return found


def output_error(
    weight: torch.Tensor,
    stored: torch.Tensor,
    scale: torch.Tensor,
    scheme: QuantizationScheme,
    x: torch.Tensor,
) -> float:
    restored = dequantize_rows(stored, scale, scheme.bits, torch.float32, scheme.group_size)
    exact = x @ weight.T
    return ((x @ restored.T - exact).norm() / exact.norm()).item()


@pytest.mark.parametrize("scheme", SCHEMES, ids=str)
@pytest.mark.parametrize("outliers", [False, True])
def test_outputs_are_closer_than_with_rounding(scheme: QuantizationScheme, outliers: bool) -> None:
    """On other inputs of the same kind the error falls by a fifth at least, by half with outlier channels."""
    weight, calibration, x = layer(outliers)
    plain = output_error(weight, *quantize_rows(weight, scheme.bits, scheme.group_size), scheme, x)
    stored, scale, note = quantize_with_gptq(weight, statistics(calibration), scheme, torch.float32)
    assert output_error(weight, stored, scale, scheme, x) < (0.5 if outliers else 0.8) * plain
    assert note == ""


@pytest.mark.parametrize("scheme", SCHEMES, ids=str)
def test_the_format_is_that_of_rounding(scheme: QuantizationScheme) -> None:
    """Shapes and dtypes are those of `quantize_rows`, the extreme negative integer stays unused."""
    weight, calibration, _ = layer(True)
    stored, scale, _ = quantize_with_gptq(weight, statistics(calibration), scheme, torch.float16)
    plain, plain_scale = quantize_rows(weight.half(), scheme.bits, scheme.group_size)
    assert (stored.dtype, stored.shape, stored.is_contiguous()) == (plain.dtype, plain.shape, True)
    assert (scale.dtype, scale.shape) == (plain_scale.dtype, plain_scale.shape)
    ones = torch.ones(scale.shape)
    integers = dequantize_rows(stored, ones, scheme.bits, torch.float32, scheme.group_size)
    assert integers.abs().max() == 2 ** (scheme.bits - 1) - 1


@pytest.mark.parametrize("group_size", [0, 32])
def test_inputs_that_never_occur_get_zero_weights(group_size: int) -> None:
    """A dead input has weight 0 and does not stretch its neighbours' scale; nothing is NaN."""
    weight, calibration, x = layer(False)
    weight[:, 5] = 9.0
    calibration[:, 5] = x[:, 5] = 0
    scheme = QuantizationScheme(4, group_size)
    stored, scale, _ = quantize_with_gptq(weight, statistics(calibration), scheme, torch.float32)
    restored = dequantize_rows(stored, scale, 4, torch.float32, group_size)
    assert not restored[:, 5].any()
    assert restored.isfinite().all()
    assert output_error(weight, stored, scale, scheme, x) < 0.15


@pytest.mark.parametrize("group_size", [0, 32])
def test_zero_weights_stay_zero(group_size: int) -> None:
    """A row of zeros, and a group of zeros, have scale 0 and zeros."""
    weight, calibration, _ = layer(False)
    weight[7] = 0
    weight[8, :32] = 0
    stored, scale, _ = quantize_with_gptq(
        weight, statistics(calibration), QuantizationScheme(4, group_size), torch.float16
    )
    restored = dequantize_rows(stored, scale, 4, torch.float32, group_size)
    assert not restored[7].any()
    assert not scale[7].any()
    assert restored.isfinite().all()
    if group_size:
        assert not restored[8, :32].any()


def test_too_few_inputs_are_damped_more_and_said() -> None:
    """Inputs that span almost nothing, of very unlike sizes, still give a result, and a notice."""
    weight, _, _ = layer(False)
    torch.manual_seed(1)
    x = torch.randn(3, D) * torch.logspace(0, 6, D)
    found = statistics(x)
    found.matrix[0, 1] = found.matrix[1, 0] = 2e10  # sums of float32 need not be positive definite
    stored, scale, note = quantize_with_gptq(weight, found, QuantizationScheme(4), torch.float32)
    assert "more damping was needed" in note
    assert dequantize_rows(stored, scale, 4, torch.float32).isfinite().all()


def test_statistics_that_are_no_numbers_are_refused() -> None:
    """NaN among the inputs ends in an error, not in a damaged layer."""
    weight, calibration, _ = layer(False)
    calibration[3, 4] = torch.nan
    with pytest.raises(ArithmeticError, match="cannot be inverted"):
        quantize_with_gptq(weight, statistics(calibration), QuantizationScheme(4), torch.float32)


def test_the_weight_is_left_as_it_is() -> None:
    """The caller's matrix is not changed."""
    weight, calibration, _ = layer(False)
    before = weight.clone()
    quantize_with_gptq(weight, statistics(calibration), QuantizationScheme(4), torch.float32)
    assert torch.equal(weight, before)


# --- calibration text ------------------------------------------------------------------------


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> ChatTokenizer:
    folder = tmp_path_factory.mktemp("vocabulary")
    train_vocabulary(folder)
    return CHATGLM.read_tokenizer(folder)


def text_file(folder: Path, content: str | bytes) -> Path:
    path = folder / "calibration.txt"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def test_half_of_a_line_is_asked_and_half_is_answered(tmp_path: Path, tokenizer: ChatTokenizer) -> None:
    """Plain lines and {"text": ...} give a context and an answer; empty lines and a mark do not count."""
    content = '\ufeffhello world\n\n  \r\n{"text": "hello world"}\n'
    passages = read_passages(text_file(tmp_path, content), tokenizer)
    encode, start = tokenizer.encode, tokenizer.encode_completion
    assert passages == [Passage(tuple(start("hello")), tuple(encode(" world")))] * 2
    assert passages[0].token_ids == [*start("hello"), *encode(" world")]


def test_prompt_and_response_are_a_chat(tmp_path: Path, tokenizer: ChatTokenizer) -> None:
    """{"prompt": ..., "response": ...} gives the model's own chat format and its end of an answer."""
    line = json.dumps({"prompt": "你好", "response": "hello"}, ensure_ascii=False)
    (passage,) = read_passages(text_file(tmp_path, line), tokenizer)
    assert passage.prompt == tuple(tokenizer.encode_completion("你好"))
    assert passage.answer == (*tokenizer.encode("hello"), *tokenizer.stop_token_ids)


@pytest.mark.parametrize(
    "line", ["hello world " * 600, json.dumps({"prompt": "你好" * 900, "response": "a"})]
)
def test_long_lines_are_cut(tmp_path: Path, tokenizer: ChatTokenizer, line: str) -> None:
    """A passage has a bounded number of tokens and keeps its whole prompt."""
    (passage,) = read_passages(text_file(tmp_path, line), tokenizer)
    assert len(passage.token_ids) <= MAX_TOKENS
    assert passage.token_ids[: len(passage.prompt)] == list(passage.prompt)
    assert passage.answer


def test_a_large_file_is_sampled_evenly(tmp_path: Path, tokenizer: ChatTokenizer) -> None:
    """Of many lines a fixed number is taken, from the first to nearly the last."""
    content = "\n".join(f"hello {number}" for number in range(10 * MAX_PASSAGES))
    passages = read_passages(text_file(tmp_path, content), tokenizer)
    decoded = [tokenizer.decode(passage.answer) for passage in passages]
    assert len(passages) == MAX_PASSAGES
    assert decoded[0].endswith("0")
    assert len(set(decoded)) > MAX_PASSAGES // 2


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty; it needs text that the model will meet"),
        (b" \n\n", "is empty"),
        (b"\xff\xfe", r"is not UTF-8 text \(invalid start byte at byte 0\)"),
        (b'hello\n{"text": 3}', r"line 2: expected .* got the keys text"),
        (b'{"prompt": "a"}', r"line 1: expected .* got the keys prompt"),
        (b"{}", "line 1: expected .* got the keys none"),
        (b"{broken", "line 1: not valid JSON"),
    ],
)
def test_a_bad_file_is_one_sentence(
    tmp_path: Path, tokenizer: ChatTokenizer, content: bytes, message: str
) -> None:
    """What cannot be used is named with its line."""
    with pytest.raises(ConfigError, match=message):
        read_passages(text_file(tmp_path, content), tokenizer)


def test_a_missing_or_huge_file_is_one_sentence(
    tmp_path: Path, tokenizer: ChatTokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No file, a directory, and a file that nobody wants in memory are refused."""
    with pytest.raises(ConfigError, match=r"nowhere\.txt cannot be read: No such file or directory"):
        read_passages(tmp_path / "nowhere.txt", tokenizer)
    with pytest.raises(ConfigError, match="cannot be read: Is a directory"):
        read_passages(tmp_path, tokenizer)
    monkeypatch.setattr("glm_runtime_torch.quantization.calibration.MAX_FILE_BYTES", 4)
    with pytest.raises(ConfigError, match=r"has 5 bytes; 4 at most are read"):
        read_passages(text_file(tmp_path, "hello"), tokenizer)


def test_walking_block_by_block_is_the_networks_own_forward() -> None:
    """Hidden states after each block, and inputs of each layer, are those of one whole pass."""
    case = next(case for case in cases("chatglm-6b") if case.kind == "hidden_states")
    ids = case["input_ids"][0].tolist()
    model = network(
        DATA / "chatglm-6b" / case.settings.get("checkpoint", "ckpt/fp16-safetensors"), torch.float32
    )
    end = ids.index(model.config.bos_token_id) + 1
    with torch.inference_mode():
        walk = Walk(model, [Passage(tuple(ids[:end]), tuple(ids[end:]))], model.transformer.word_embeddings)
        for index, block in enumerate(model.transformer.layers):
            expected = case["hidden_states"][index, :, 0]
            torch.testing.assert_close(walk._hidden[0][0], expected, rtol=0, atol=2e-4)
            seen = walk.collect_statistics(block, block.attention.query_key_value)  # type: ignore[arg-type]
            x = block.input_layernorm(expected)
            assert seen.count == len(ids)
            torch.testing.assert_close(seen.matrix, x.T @ x, rtol=1e-3, atol=1e-2)
            walk.advance(block)
    assert isinstance(model.transformer.word_embeddings, torch.nn.Embedding)
    assert type(model.transformer.layers[0]).__name__ == "ChatGLMLayer"


@pytest.mark.parametrize("name", NAMES)
def test_every_family_can_be_walked_block_by_block(name: str) -> None:
    """What comes out of the last block gives the logits of one whole pass, experts and all."""
    model, prompt = tiny_network(name), prompt_of(name)
    kinds = [type(module) for module in model.modules()]
    with torch.inference_mode():
        walk = Walk(model, [Passage(tuple(prompt), ())], model.embedding)
        for block in model.blocks:
            walk.advance(block)
        found = model.head(model.final_norm(walk._hidden[0]))[0]
    torch.testing.assert_close(found, logits_of(model, prompt), rtol=1e-4, atol=1e-4)
    assert [type(module) for module in model.modules()] == kinds


@pytest.mark.parametrize("scheme", [QuantizationScheme(8), QuantizationScheme(4, 32)], ids=str)
def test_a_layer_that_no_text_reached_is_rounded(scheme: QuantizationScheme) -> None:
    """An expert that no token was sent to is rounded to the nearest and keeps its weights; a note says so."""
    weight, _, _ = layer(outliers=False)
    stored, scale, note = quantize_with_gptq(weight, InputStatistics(weight.shape[1]), scheme, torch.float32)
    expected = quantize_rows(weight, scheme.bits, scheme.group_size)
    assert torch.equal(stored, expected[0])
    assert torch.equal(scale, expected[1])
    assert "no calibration text reached" in note


def test_calibration_that_never_ends_or_begins_is_refused(tmp_path: Path, tokenizer: ChatTokenizer) -> None:
    """A pipe would wait for ever, a device never end; brackets without end are no row."""
    pipe, device = tmp_path / "pipe", tmp_path / "device"
    os.mkfifo(pipe)
    device.symlink_to("/dev/zero")
    for path in (pipe, device, text_file(tmp_path, '{"text":' + "[" * 100_000)):
        with pytest.raises(ConfigError, match=path.name):
            read_passages(path, tokenizer)
