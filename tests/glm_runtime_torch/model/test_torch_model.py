"""Opening a model directory: what is recognised, what is refused, what adapters and places do."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import glm_backend_cpu.plugin
import glm_runtime_torch.plugin
import psutil
import pytest
import torch
from glm_runtime_torch.loading import open_source
from glm_runtime_torch.quantization import QuantizedLinear
from glm_testing import make_host
from goldens import DATA, cases
from key_words import containing
from safetensors.torch import load_file, save_file
from tiny_models import open_with_prompt, tiny_checkpoint

from glm_core import (
    AdapterError,
    ChatRequest,
    CheckpointError,
    ClosedError,
    Message,
    OutOfMemoryError,
    Sampling,
)
from glm_core.config import Settings
from glm_core.records import ModelSource, Placement, QuantizationScheme
from glm_core.routing import open_model

V1 = DATA / "chatglm-6b"


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_checkpoint(tmp_path_factory.mktemp("model") / "tiny")


def edited(directory: Path, target: Path, **config: Any) -> Path:
    """A copy of a checkpoint with other configuration values; ``None`` removes a key."""
    target.mkdir()
    for path in directory.iterdir():
        (target / path.name).write_bytes(path.read_bytes())
    content = json.loads((target / "config.json").read_text("utf-8")) | config
    content = {key: value for key, value in content.items() if value is not None}
    (target / "config.json").write_text(json.dumps(content), "utf-8")
    return target


def host() -> Any:
    return make_host(runtime=glm_runtime_torch.plugin, cpu=glm_backend_cpu.plugin)


def test_other_models_are_declined(tmp_path: Path, directory: Path) -> None:
    """A directory without config.json, another model type, and ChatGLM2 are not this family's."""
    assert open_source(ModelSource("empty", tmp_path), "float32") is None
    llama = edited(directory, tmp_path / "llama", model_type="llama")
    assert open_source(ModelSource("llama", llama), "float32") is None
    second = edited(directory, tmp_path / "second", inner_hidden_size=None)
    assert open_source(ModelSource("chatglm2", second), "float32") is None
    assert open_source(ModelSource("name only"), "float32") is None


def test_nothing_is_in_memory_before_placement(directory: Path) -> None:
    """After load_model every weight is still on the meta device."""
    model = open_source(ModelSource("tiny", directory), "float32")
    assert model is not None
    assert all(parameter.is_meta for parameter in model.network.parameters())
    assert model.count_weight_bytes(unread_only=True) == 4 * model.info.num_parameters


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("quantize", ["none", "int8", "int4"])
def test_every_dtype_and_scheme_answers(directory: Path, dtype: str, quantize: str) -> None:
    """All stages together give a model that answers in every combination."""
    settings = Settings(model=str(directory), device="cpu", dtype=dtype, quantize=quantize)
    with open_model(host(), settings) as model:
        reply, history = model.chat("hello", max_new_tokens=4, seed=0)
    assert history == [("hello", reply)]
    with pytest.raises(ClosedError):
        model.chat("hello")


def test_quantised_weights_keep_exact_scales(directory: Path) -> None:
    """Scales stay float32 whatever is computed in; integers stay integers, the table a float."""
    model = open_source(ModelSource("tiny", directory), "bfloat16")
    assert model is not None
    model.quantize(QuantizationScheme(4))
    model.materialize(torch.device("cpu"))
    layer = model.network.transformer.layers[0].mlp.dense_h_to_4h
    assert isinstance(layer, QuantizedLinear)
    assert (layer.weight.dtype, layer.weight_scale.dtype) == (torch.int8, torch.float32)
    assert (layer.bias.dtype, model.network.lm_head.weight.dtype) == (torch.bfloat16, torch.bfloat16)


def test_parameters_are_counted_before_quantisation() -> None:
    """A pre-quantised int4 checkpoint reports as many weights as its float16 original."""
    folders = (V1 / "ckpt" / "fp16-bin", DATA / "quantization" / "ckpt-int4")
    counts = {open_with_prompt(folder, [1]).info.num_parameters for folder in folders}
    assert len(counts) == 1


def test_quantising_twice_is_refused() -> None:
    """A checkpoint that is quantised already is not quantised again."""
    model = open_with_prompt(DATA / "quantization" / "ckpt-int4", [1])
    with pytest.raises(CheckpointError, match="is quantised already"):
        model.quantize(8)


def test_unknown_quantization_bits_are_refused(tmp_path: Path, directory: Path) -> None:
    """config.json with three bits gives one sentence."""
    wrong = edited(directory, tmp_path / "three", quantization_bit=3)
    with pytest.raises(CheckpointError, match="quantization_bit: bits must be 8 or 4, got 3"):
        open_source(ModelSource("three", wrong), "float32")


def test_wrong_shape_is_refused(tmp_path: Path, directory: Path) -> None:
    """Weights of another size than config.json says are refused before reading."""
    wrong = edited(directory, tmp_path / "wrong", inner_hidden_size=64)
    with pytest.raises(CheckpointError, match=containing("dense_h_to_4h.weight", "[128, 32]", "[64, 32]")):
        open_source(ModelSource("wrong", wrong), "float32")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"vocab_size": 100}, r"has \d+ pieces, the model's embedding only 100 rows"),
        ({"eos_token_id": 5}, r"ends answers with token \d+, config\.json with 5"),
    ],
)
def test_wrong_vocabulary_is_refused(
    tmp_path: Path, directory: Path, change: dict[str, Any], message: str
) -> None:
    """A vocabulary that cannot belong to the weights is refused with the difference."""
    wrong = edited(directory, tmp_path / "wrong", **change)
    with pytest.raises(CheckpointError, match=message):
        open_source(ModelSource("wrong", wrong), "float32")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_attention_heads": None}, "num_attention_heads.* is missing"),
        ({"num_attention_heads": 5}, "not a multiple of num_attention_heads 5"),
    ],
)
def test_bad_configuration_is_refused(
    tmp_path: Path, directory: Path, change: dict[str, Any], message: str
) -> None:
    """A config.json that describes no possible network is refused."""
    wrong = edited(directory, tmp_path / "wrong", **change)
    with pytest.raises(CheckpointError, match=message):
        open_source(ModelSource("wrong", wrong), "float32")


def test_adapter_of_another_model_is_refused(directory: Path) -> None:
    """A prefix trained on another shape is refused with both shapes."""
    source = ModelSource("tiny", directory, {"other": V1 / "ptuning-emb"})
    with pytest.raises(AdapterError, match=containing("embedding.weight", "shape", "adapter")):
        open_source(source, "float32")


def test_directory_without_a_prefix_is_no_adapter(directory: Path) -> None:
    """A model's own directory is not taken for an adapter; a missing one is named."""
    with pytest.raises(AdapterError, match="no adapter"):
        open_source(ModelSource("tiny", directory, {"x": directory}), "float32")
    with pytest.raises(AdapterError, match="does not exist"):
        open_source(ModelSource("tiny", directory, {"x": directory / "none"}), "float32")


def test_adapters_are_chosen_per_request() -> None:
    """One resident model answers with the base, with one adapter, and with the other."""
    case = next(case for case in cases("chatglm-6b") if case.name == "ptuning_emb_greedy_24")
    prompt = case["input_ids"][0].tolist()
    adapters = {"emb": V1 / "ptuning-emb", "proj": V1 / "ptuning-proj"}
    model = open_with_prompt(V1 / "ckpt" / "fp16-bin", prompt, adapters=adapters)
    answers = []
    for adapter in (None, "emb", "proj", "emb"):
        request = ChatRequest(
            (Message("user", "x"),), Sampling(do_sample=False, max_new_tokens=24), adapter=adapter
        )
        answers.append([token for delta in model.stream(request) for token in delta.token_ids])
    assert answers[1] == case["sequences"][0, len(prompt) :].tolist()
    assert answers[1] == answers[3]
    assert len({tuple(answer) for answer in answers}) == 3


def test_prefix_stored_with_the_model_is_used(tmp_path: Path, directory: Path) -> None:
    """A full-parameter checkpoint of the original trainer holds its prefix, and it is used."""
    full = edited(directory, tmp_path / "full", pre_seq_len=4)
    state = load_file(full / "model.safetensors")
    torch.manual_seed(1)
    state["transformer.prefix_encoder.embedding.weight"] = torch.randn(4, 2 * 2 * 32)
    save_file(state, full / "model.safetensors")
    plain = Settings(model=str(directory), device="cpu", dtype="float32")
    tuned = Settings(model=str(full), device="cpu", dtype="float32")
    with open_model(host(), plain) as base, open_model(host(), tuned) as prefixed:
        assert base.chat("hello", do_sample=False, max_new_tokens=8) != prefixed.chat(
            "hello", do_sample=False, max_new_tokens=8
        )


def test_memory_is_checked_before_reading(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A model that does not fit is refused by arithmetic, in gigabytes."""
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=10, total=10))
    model = open_source(ModelSource("tiny", directory), "float32")
    assert model is not None
    with pytest.raises(OutOfMemoryError, match=r"needs [\d.]+ GB for its weights, 0\.0 GB of memory"):
        glm_backend_cpu.plugin.place(model, Placement(("cpu",)))
    assert all(parameter.is_meta for parameter in model.network.parameters())


def test_generation_config_overrides_the_familys_defaults(tmp_path: Path, directory: Path) -> None:
    """What generation_config.json says becomes the model's default; the rest stays the family's."""
    own = edited(directory, tmp_path / "own")
    (own / "generation_config.json").write_text(
        json.dumps({"do_sample": False, "top_k": 7, "eos_token_id": 1})
    )
    model = open_source(ModelSource("own", own), "float32")
    assert model is not None
    assert (model.info.sampling.do_sample, model.info.sampling.top_k) == (False, 7)
    assert (model.info.sampling.top_p, model.info.sampling.max_length) == (0.7, 2048)


def test_bad_generation_config_is_refused(tmp_path: Path, directory: Path) -> None:
    """A value that cannot be used is named with the file."""
    own = edited(directory, tmp_path / "own")
    (own / "generation_config.json").write_text(json.dumps({"temperature": -1}))
    with pytest.raises(CheckpointError, match=r"generation_config\.json: temperature is -1"):
        open_source(ModelSource("own", own), "float32")
