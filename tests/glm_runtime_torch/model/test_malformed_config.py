"""What cannot be in a ``config.json`` or beside it is named: file, key, value and what was expected."""

from __future__ import annotations

import json
import re
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from glm_runtime_torch.families.registry import FAMILIES, Family
from glm_runtime_torch.model.directory import open_directory, recognize_family
from glm_runtime_torch.model.torch_model import TorchModel
from hostile_files import open_and_ask
from safetensors.torch import load_file, save_file
from tiny_families import MAKERS

from glm_core import CheckpointError
from glm_core.records import ModelSource

Base = Callable[[str], Path]
NO_LIST: list[object] = []
NO_MAP: dict[str, object] = {}
V1, LATER, NATIVE = ("chatglm",), ("chatglm3", "glm4-9b"), ("glm4", "glm4_moe")


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Base:
    """A tiny model of each family, made once."""
    made: dict[str, Path] = {}

    def make(family: str) -> Path:
        if family not in made:
            made[family] = MAKERS[family](tmp_path_factory.mktemp(family))
        return made[family]

    return make


def open_model(directory: Path) -> TorchModel:
    """Open a model as the runtime does, without a backend."""
    family = recognize_family(directory)
    assert family is not None
    return open_directory(ModelSource("m", directory), directory, family, torch.float32)


def refusal(directory: Path) -> str:
    """The sentence with which a model is refused."""
    with pytest.raises(CheckpointError) as caught:
        open_model(directory)
    return str(caught.value)


def copy_with_config(base: Path, target: Path, file: str = "config.json", **changes: Any) -> Path:
    """Copy a model and change keys of one of its JSON files."""
    shutil.copytree(base, target)
    path = target / file
    content = json.loads(path.read_text("utf-8")) if path.is_file() else {}
    path.write_text(json.dumps({**content, **changes}), "utf-8")
    return target


CASES: list[tuple[tuple[str, ...], str, object]] = [
    *(
        (V1 + LATER, "num_layers", value)
        for value in ("28", 2.5, 28.0, 0, -1, None, True, NO_LIST, 10**9, 10**90)
    ),
    *((NATIVE, "num_hidden_layers", value) for value in ("28", 2.5, 0, -1, None, 10**9)),
    *((V1 + LATER + NATIVE, "num_attention_heads", value) for value in (0, "4", None, 10**6)),
    *((V1 + LATER + NATIVE, "hidden_size", value) for value in (2**40, 0, -32, "32")),
    *((V1 + LATER, "layernorm_epsilon", value) for value in ("x", None, -1, 1e400, float("nan"))),
    *((NATIVE, "rms_norm_eps", value) for value in ("x", -1, float("nan"))),
    *((LATER + NATIVE, "eos_token_id", value) for value in (NO_LIST, ["2"], "2", -1, 2.0, [None], NO_MAP)),
    *((V1, "eos_token_id", value) for value in (NO_LIST, "2", -1, None)),
    *((NATIVE, "hidden_act", value) for value in ("nonsense", 3, None, ["silu"])),
    *((NATIVE, "rope_scaling", value) for value in ("yarn", 3, {"type": "dynamic", "factor": 2.0}, [1])),
    *((NATIVE, "rope_parameters", value) for value in ({"rope_type": "nonsense"}, {"mrope_section": [1, 2]})),
    *((NATIVE, "head_dim", value) for value in (7, "8", 0, 2**40)),
    *((NATIVE, "num_key_value_heads", value) for value in (3, 0, "2")),
    *((NATIVE, "pad_token_id", value) for value in (10**6, -1, "0")),
    *((NATIVE, "max_position_embeddings", value) for value in (0, 2**40, "512")),
    *((NATIVE, "tie_word_embeddings", value) for value in ("no", 1)),
    *((("glm4_moe",), "n_routed_experts", value) for value in (0, 10**9, "4", 3.0)),
    *((("glm4_moe",), "num_experts_per_tok", value) for value in (0, 5, "2")),
    *((("glm4_moe",), "n_group", value) for value in (0, 3, 4)),
    *((V1, "vocab_size", value) for value in (0, 2**40, "130528")),
    *((V1, "max_sequence_length", value) for value in (0, 2**40, [2048])),
    *((V1, "position_encoding_2d", value) for value in ("yes", 1)),
    *((V1, "gmask_token_id", value) for value in ("81", -1)),
    *((LATER, "kv_channels", value) for value in (0, 6, "8", 2**40)),
    *((LATER, "multi_query_group_num", value) for value in (0, 3, "2")),
    *((LATER, "seq_length", value) for value in (0, -1, "8192", 2**40)),
    *((LATER, "rope_ratio", value) for value in ("50", 0, -1, float("inf"))),
    *((LATER, "rmsnorm", value) for value in (False, "true")),
]


@pytest.mark.parametrize(
    ("family", "key", "value"),
    [(family, key, value) for families, key, value in CASES for family in families],
)
def test_wrong_value_of_config_is_named(
    family: str, key: str, value: Any, base: Base, tmp_path: Path
) -> None:
    """The sentence has the file, the key and what it is; nothing is built and no plugin is blamed."""
    message = refusal(copy_with_config(base(family), tmp_path / "m", **{key: value}))
    assert "config.json" in message
    assert key in message
    assert len(message) < 700


@pytest.mark.parametrize("family", [*V1, *LATER, *NATIVE])
@pytest.mark.parametrize("key", ["num_attention_heads"])
def test_missing_key_is_named(family: str, key: str, base: Base, tmp_path: Path) -> None:
    """A family whose file must have a key says that it is missing; others compare their default."""
    directory = copy_with_config(base(family), tmp_path / "m")
    content = json.loads((directory / "config.json").read_text("utf-8"))
    del content[key]
    (directory / "config.json").write_text(json.dumps(content), "utf-8")
    message = refusal(directory)
    assert family in NATIVE or f"{key} is missing" in message


@pytest.mark.parametrize(
    ("key", "value"),
    [
        *(("temperature", value) for value in ("hot", -1, [1], True, float("nan"), 2**70)),
        *(("top_p", value) for value in (1.5, -0.1, "0.8", NO_MAP)),
        *(("top_k", value) for value in (2.5, -1, "50", 2**70)),
        *(("repetition_penalty", value) for value in (0, -1, "1", 1e400)),
        *(("max_length", value) for value in (0, "2048", 2.0, 10**90)),
        *(("do_sample", value) for value in ("yes", 1)),
    ],
)
def test_wrong_default_of_sampling_is_named(key: str, value: Any, base: Base, tmp_path: Path) -> None:
    """The same of ``generation_config.json``."""
    message = refusal(
        copy_with_config(base("chatglm"), tmp_path / "m", "generation_config.json", **{key: value})
    )
    assert re.search(rf"generation_config\.json: {key} is .* expected", message)


@pytest.mark.parametrize(
    ("file", "content"),
    [
        *(("generation_config.json", text) for text in ("[]", "null", "{", '{"eos_token_id": ["x"]}')),
        *(("tokenizer_config.json", text) for text in ("[]", '{"model_max_length": "x"}', "[" * 100_000)),
        *(("special_tokens_map.json", text) for text in ("[]", "{")),
        *(("tokenizer.json", text) for text in ("[]", "null", "{", "[" * 100_000)),
    ],
)
def test_file_beside_the_config_is_named(file: str, content: str, base: Base, tmp_path: Path) -> None:
    """Files that libraries read by themselves are looked at first."""
    directory = copy_with_config(base("glm4"), tmp_path / "m")
    (directory / file).write_text(content)
    assert file.partition(".")[0] in refusal(directory)


@pytest.mark.parametrize(
    "name", [3, "", "x" * 5000, "../model.safetensors", "a\u0000.bin", "config.json", None]
)
def test_index_names_files_of_weights_only(name: Any, base: Base, tmp_path: Path) -> None:
    """A name that is a number, a path, of 5,000 letters or of another kind of file."""
    directory = copy_with_config(
        base("chatglm"), tmp_path / "m", "model.safetensors.index.json", weight_map={"x": name}
    )
    assert "model.safetensors.index.json" in refusal(directory)


@pytest.fixture(params=[*V1, *LATER, *NATIVE])
def family(request: pytest.FixtureRequest) -> Family:
    """A family of every sort."""
    return next(family for family in FAMILIES if family.name == request.param)


def test_network_that_the_files_cannot_hold_is_never_built(
    family: Family, base: Base, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A thousand blocks, or experts, are refused by a count of tensors and in a moment."""
    layers = "num_hidden_layers" if family.name in NATIVE else "num_layers"
    changes: list[dict[str, Any]] = [{layers: 1000}]
    changes += [{"n_routed_experts": 4000, "num_experts_per_tok": 2}] * (family.name == "glm4_moe")
    monkeypatch.setattr(torch.nn.Module, "__init__", lambda *_, **__: pytest.fail("it was built"))
    for number, change in enumerate(changes):
        start = time.process_time()
        message = refusal(copy_with_config(base(family.name), tmp_path / str(number), **change))
        assert re.search(r"[\d,]+ blocks of at least [\d,]+ tensors.*hold \d+", message)
        assert time.process_time() - start < 2


def test_first_chatglm_is_called_by_its_name(base: Base, tmp_path: Path) -> None:
    """ChatGLM-6B v1.0 has other weights and ids; either of two files tells it."""
    by_config = copy_with_config(base("chatglm"), tmp_path / "a", vocab_size=150528, eos_token_id=150005)
    by_tokenizer = copy_with_config(
        base("chatglm"), tmp_path / "b", "tokenizer_config.json", num_image_tokens=20000
    )
    for directory in (by_config, by_tokenizer):
        assert re.search(r"ChatGLM-6B v1\.0.*revision v1\.1\.0", refusal(directory))


def test_control_tokens_of_another_vocabulary_are_found_when_opening(base: Base, tmp_path: Path) -> None:
    """Ids that no prompt will hold are told at once and not at the first question."""
    message = refusal(copy_with_config(base("chatglm"), tmp_path / "m", bos_token_id=9))
    assert "control tokens" in message


@pytest.mark.parametrize("wrapper", ["module.", "base_model.model.", "_orig_mod.module."])
def test_names_with_a_wrappers_prefix_load_and_answer_the_same(
    wrapper: str, base: Base, tmp_path: Path
) -> None:
    """Data parallelism, compilation and PEFT put a name in front of every tensor."""
    directory = copy_with_config(base("chatglm3"), tmp_path / "m")
    state = load_file(directory / "model.safetensors")
    (directory / "model.safetensors").unlink()
    torch.save({f"{wrapper}{name}": value for name, value in state.items()}, directory / "pytorch_model.bin")
    assert open_and_ask(directory).word == "answered"
    same, plain = open_model(directory), open_model(base("chatglm3"))
    for model in (same, plain):
        model.materialize(torch.device("cpu"))
    expected = dict(plain.network.named_parameters())
    assert all(torch.equal(value, expected[name]) for name, value in same.network.named_parameters())


def test_lora_weights_are_named(base: Base, tmp_path: Path) -> None:
    """A model that PEFT wrapped is not taken for a damaged one."""
    directory = copy_with_config(base("chatglm3"), tmp_path / "m")
    block = "base_model.model.transformer.encoder.layers.0.self_attention.query_key_value"
    state = {
        f"{block}.base_layer.weight": torch.zeros(4, 4),
        f"{block}.lora_A.default.weight": torch.zeros(1, 4),
    }
    save_file(
        {f"x.{number}": torch.zeros(1) for number in range(40)} | state, directory / "model.safetensors"
    )
    assert re.search("LoRA.*merge", refusal(directory), re.IGNORECASE)


def test_tied_head_may_be_stored_in_the_tables_place(base: Base, tmp_path: Path) -> None:
    """What libraries leave of shared memory is one name, and either will do."""
    directory = copy_with_config(base("chatglm"), tmp_path / "m")
    state = load_file(directory / "model.safetensors")
    state["lm_head.weight"] = state.pop("transformer.word_embeddings.weight")
    save_file(state, directory / "model.safetensors")
    model = open_model(directory)
    model.materialize(torch.device("cpu"))
    head: Any = model.network.head
    assert torch.equal(head.weight, state["lm_head.weight"].float())
    assert open_and_ask(directory).word == "answered"
