"""Adapter files: written, read back, the original's forms, and why one does not fit."""

from __future__ import annotations

import errno
import json
import logging
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import glm_runtime_torch.adapters.directory as directory_module
import pytest
import torch
from glm_runtime_torch.adapters.directory import open_adapter
from glm_runtime_torch.adapters.files import (
    CONFIG_FILE,
    BaseModel,
    read_adapter_config,
    save_adapter,
)
from glm_runtime_torch.adapters.fingerprint import (
    fingerprint_checkpoint,
    fingerprint_parameters,
    is_same_base,
)
from glm_runtime_torch.adapters.loading import load_prefix_encoder, read_adapter
from glm_runtime_torch.checkpoints.reader import Checkpoint
from glm_runtime_torch.families.registry import CHATGLM
from glm_runtime_torch.loading import open_source
from glm_runtime_torch.model.directory import read_config
from glm_runtime_torch.network.prefix_encoder import PrefixEncoder
from goldens import DATA, cases
from key_words import containing
from safetensors.torch import load_file, save_file
from tiny_families import MAKERS
from tiny_models import open_with_prompt, tiny_checkpoint

from glm_core import AdapterError, ChatRequest, Message, Sampling
from glm_core.records import ModelSource

V1 = DATA / "chatglm-6b"
NAMES = "transformer.prefix_encoder."
RAW = json.loads((V1 / "ckpt" / "fp16-bin" / "config.json").read_text("utf-8"))
CONFIG = read_config(V1, RAW, CHATGLM)


@pytest.fixture
def encoder() -> PrefixEncoder:
    """A prefix of 6 positions with a projection, for the golden v1 network."""
    torch.manual_seed(3)
    return CHATGLM.build_prefix_encoder(CONFIG, 6, True)


@pytest.fixture
def adapter(tmp_path: Path, encoder: PrefixEncoder) -> Path:
    """That prefix as files."""
    save_adapter(
        tmp_path / "adapter",
        encoder,
        family="chatglm",
        base=BaseModel("golden", "sha256:1"),
        training={"learning_rate": 0.02, "name": "广告"},
    )
    return tmp_path / "adapter"


def load(directory: Path) -> PrefixEncoder:
    return load_prefix_encoder(directory, CHATGLM, CONFIG)


def change_config(adapter: Path, **changes: Any) -> Path:
    path = adapter / CONFIG_FILE
    path.write_text(json.dumps({**json.loads(path.read_text("utf-8")), **changes}), "utf-8")
    return adapter


def change_weights(adapter: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> Path:
    path = adapter / "model.safetensors"
    state = load_file(path)
    change(state)
    save_file({name: value.clone() for name, value in state.items()}, path)
    return adapter


def test_an_adapter_comes_back_as_it_was(adapter: Path, encoder: PrefixEncoder) -> None:
    """Weights bit for bit, in float32 under the original's names; the facts beside them."""
    loaded = load(adapter)
    assert torch.equal(loaded(), encoder())
    stored = load_file(adapter / "model.safetensors")
    assert set(stored) == {f"{NAMES}{name}" for name in encoder.state_dict()}
    assert {value.dtype for value in stored.values()} == {torch.float32}
    config = read_adapter_config(adapter)
    assert config is not None
    assert (config.family, config.pre_seq_len, config.prefix_projection) == ("chatglm", 6, True)
    assert (config.num_layers, config.num_kv_heads, config.head_dim) == (3, 4, 16)
    assert config.base == BaseModel("golden", "sha256:1")
    assert config.training == {"learning_rate": 0.02, "name": "广告"}
    assert config.created_by.startswith("glm-runtime-torch ")
    assert sorted(path.name for path in adapter.iterdir()) == [CONFIG_FILE, "model.safetensors"]


def test_what_else_is_in_the_directory_stays(tmp_path: Path, encoder: PrefixEncoder) -> None:
    """A trainer's own files are left alone, and an adapter that was there is replaced."""
    (tmp_path / "optimizer.pt").write_text("x")
    for _ in range(2):
        save_adapter(tmp_path, encoder.half(), family="chatglm", base=BaseModel("a"))
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        CONFIG_FILE,
        "model.safetensors",
        "optimizer.pt",
    ]
    assert load(tmp_path).embedding.weight.dtype == torch.float32


def test_a_prefix_that_is_not_finite_is_not_written(tmp_path: Path, encoder: PrefixEncoder) -> None:
    """A diverged prefix never becomes a file."""
    with torch.no_grad():
        encoder.embedding.weight[0, 0] = float("nan")
    with pytest.raises(
        AdapterError, match=containing("transformer.prefix_encoder.embedding.weight", "finite")
    ):
        save_adapter(tmp_path / "adapter", encoder, family="chatglm", base=BaseModel("a"))
    assert not (tmp_path / "adapter").exists()


def test_a_full_disk_leaves_the_old_adapter(
    adapter: Path, encoder: PrefixEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A write that fails says why and leaves neither half files nor a changed adapter."""
    before = {path.name: path.read_bytes() for path in adapter.iterdir()}

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(AdapterError, match="No space left on device"):
        save_adapter(adapter, encoder, family="chatglm", base=BaseModel("b"))
    assert {path.name: path.read_bytes() for path in adapter.iterdir()} == before


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"family": "chatglm2"},
            r"another model.*golden.*family is .chatglm2., that of this one is .chatglm.",
        ),
        ({"num_layers": 28}, r"another model.*golden.*num_layers is 28, that of this one is 3"),
        ({"num_kv_heads": 32}, r"its num_kv_heads is 32, that of this one is 4$"),
        ({"head_dim": 128}, r"its head_dim is 128, that of this one is 16$"),
        (
            {"pre_seq_len": 128},
            r"glm_adapter\.json says pre_seq_len 128, the weights have 6; the files are of",
        ),
        (
            {"prefix_projection": False},
            r"says prefix_projection False, the weights have True; the files are of",
        ),
        (
            {"format_version": 2},
            r"format_version 2, .* reads 1; update it: pip install",
        ),
        ({"format_version": "1"}, r"format_version .1., .* reads 1"),
        ({"format": "peft"}, r"does not describe an adapter: its format is not 'glm-adapter'$"),
        (
            {"pre_seq_len": "6"},
            r"pre_seq_len is .6., a whole number .* expected; copy or train",
        ),
    ],
)
def test_a_setting_that_differs_is_named(adapter: Path, changes: dict[str, Any], message: str) -> None:
    """Each mismatch between file, weights and model says which setting it is, and both values."""
    with pytest.raises(AdapterError, match=message):
        load(change_config(adapter, **changes))


def test_a_missing_setting_is_named(adapter: Path) -> None:
    """A file that lacks a setting is refused by that setting's name."""
    content = json.loads((adapter / CONFIG_FILE).read_text("utf-8"))
    del content["num_layers"]
    (adapter / CONFIG_FILE).write_text(json.dumps(content))
    with pytest.raises(AdapterError, match=r"glm_adapter\.json: num_layers is missing.*copy or train"):
        load(adapter)


def test_a_damaged_description_is_refused(adapter: Path) -> None:
    """Neither half a JSON file nor a Git LFS pointer is taken for a description."""
    (adapter / CONFIG_FILE).write_text('{"format": "glm-')
    with pytest.raises(AdapterError, match=r"glm_adapter\.json is not valid JSON"):
        load(adapter)
    (adapter / CONFIG_FILE).write_text("version https://git-lfs.github.com/spec/v1\n")
    with pytest.raises(AdapterError, match="is a Git LFS pointer"):
        load(adapter)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda s: s.pop(f"{NAMES}trans.0.bias"),
            r"tensor transformer\.prefix_encoder\.trans\.0\.bias is missing",
        ),
        (lambda s: s.pop(f"{NAMES}embedding.weight"), "holds no prefix encoder"),
        (
            lambda s: s[f"{NAMES}trans.2.bias"].fill_(float("inf")),
            r"trans\.2\.bias holds values that are not finite",
        ),
        (
            lambda s: s.update({f"{NAMES}embedding.weight": torch.zeros(6)}),
            r"embedding\.weight has shape \[6\]",
        ),
        (
            lambda s: s.update({f"{NAMES}trans.2.bias": torch.zeros(5)}),
            r"trans\.2\.bias has shape \[5\], this chatglm model needs \[384\] "
            r"\(num_layers 3, num_kv_heads 4, head_dim 16\); the adapter was trained on another model$",
        ),
    ],
)
def test_weights_that_are_wrong_are_named(adapter: Path, change: Any, message: str) -> None:
    """A missing, misshapen or not finite tensor is refused by its name."""
    with pytest.raises(AdapterError, match=message):
        load(change_weights(adapter, change))


def test_a_cut_off_file_is_refused(adapter: Path) -> None:
    """Half a weight file and a Git LFS pointer are told apart from an adapter."""
    weights = adapter / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(AdapterError, match=containing("model.safetensors", "damaged")):
        load(adapter)
    weights.write_text("version https://git-lfs.github.com/spec/v1\n")
    with pytest.raises(AdapterError, match=containing("Git LFS pointer", "git lfs pull")):
        load(adapter)


def test_an_original_adapter_of_another_model_shows_both_sizes(tmp_path: Path) -> None:
    """Without our file the shapes tell, and the config.json beside them says of which model they are."""
    other = read_config(V1, {**RAW, "num_layers": 2}, CHATGLM)
    with pytest.raises(
        AdapterError,
        match=containing("[8, 384]", "[8, 256]", "num_layers 2", "config.json says num_layers 3"),
    ):
        load_prefix_encoder(V1 / "ptuning-emb", CHATGLM, other)


def test_an_adapter_of_peft_is_told(tmp_path: Path) -> None:
    """PEFT's files are named as what they are."""
    (tmp_path / "adapter_model.safetensors").write_bytes(b"x")
    with pytest.raises(AdapterError, match=containing("PEFT", "does not read")):
        load(tmp_path)


def test_the_newest_checkpoint_of_a_job_is_taken(
    tmp_path: Path, adapter: Path, encoder: PrefixEncoder, caplog: pytest.LogCaptureFixture
) -> None:
    """A training job's directory stands for its newest checkpoint by number, and a line says which."""
    for step in (20, 100):
        shutil.copytree(adapter, tmp_path / "job" / f"checkpoint-{step}")
    change_weights(tmp_path / "job" / "checkpoint-20", lambda s: s[f"{NAMES}trans.2.bias"].zero_())
    (tmp_path / "job" / "checkpoint-300").mkdir()  # was being written
    with caplog.at_level(logging.WARNING, "glm"):
        assert torch.equal(load(tmp_path / "job")(), encoder())
    assert [record.getMessage() for record in caplog.records] == [
        f"glm: adapter {tmp_path / 'job'} holds no weights itself; "
        "taking its newest checkpoint, checkpoint-100"
    ]


def test_one_model_has_one_fingerprint(tmp_path: Path) -> None:
    """File forms and the int4 and int8 copies of a model agree, as far as they tell; another one differs."""
    forms = [V1 / "ckpt" / "fp16-bin", *(DATA / "quantization").glob("ckpt-*")]
    assert len(forms) >= 3
    prints = {form.name: fingerprint_checkpoint(Checkpoint(form)) for form in forms}
    state = Checkpoint(forms[0])
    in_memory = [(name, state.read(name, dtype=torch.float32, device=torch.device("cpu"))) for name in state]
    prints["memory"] = fingerprint_parameters(in_memory)
    # Only the first holds its matrices as they are, so of no other can it be told whether they are the same.
    assert {one for one, text in prints.items() if "+" in text} == {"fp16-bin"}
    assert is_same_base(prints["fp16-bin"], prints["fp16-bin"]) is True
    for text in set(prints.values()) - {prints["fp16-bin"]}:
        assert is_same_base(prints["fp16-bin"], text) is None
    other = fingerprint_checkpoint(Checkpoint(tiny_checkpoint(tmp_path / "other")))
    assert [is_same_base(other, text) for text in prints.values()] == [False] * len(prints)


@pytest.mark.parametrize("family", MAKERS)
def test_a_change_of_one_matrix_is_another_model(family: str, tmp_path: Path) -> None:
    """As after a LoRA was merged: no bias and no norm is touched, and each matrix of the blocks counts."""
    directory = MAKERS[family](tmp_path / "model")
    path = directory / "model.safetensors"
    before, state = fingerprint_checkpoint(Checkpoint(directory)), load_file(path)
    matrices = [name for name, value in state.items() if value.dim() > 1 and ".0." in name]
    assert len(matrices) >= 4
    for name in matrices:
        update = torch.outer(torch.ones(len(state[name])), torch.full((state[name][0].numel(),), 0.25))
        changed = state[name].float() + update.view(state[name].shape)
        save_file({**state, name: changed.to(state[name].dtype)}, path, metadata={"format": "pt"})
        after = fingerprint_checkpoint(Checkpoint(directory))
        assert is_same_base(before, after) is False, name
        assert before.partition("+")[0] == after.partition("+")[0]
    save_file(state, path, metadata={"format": "pt"})
    assert fingerprint_checkpoint(Checkpoint(directory)) == before


def test_fingerprints_of_before_are_still_read() -> None:
    """One without the second part agrees with biases and norms, and leaves the rest open."""
    assert is_same_base("sha256:1", "sha256:1+2") is None
    assert is_same_base("sha256:1+2", "sha256:1") is None
    assert is_same_base("sha256:1", "sha256:1") is None
    assert is_same_base("sha256:1", "sha256:2+2") is False
    assert is_same_base("sha256:1+2", "sha256:1+2") is True
    assert is_same_base("sha256:1+2", "sha256:1+3") is False


def test_other_weights_are_told_and_not_refused(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """An adapter answers on other weights of the same shape, with one line that names both models."""
    directory = tiny_checkpoint(tmp_path / "tiny")
    config = read_config(directory, json.loads((directory / "config.json").read_text()), CHATGLM)
    prefix = CHATGLM.build_prefix_encoder(config, 4, False)
    with caplog.at_level(logging.WARNING, "glm"):
        for name, base in (("same", None), ("other", BaseModel("THUDM/x", "sha256:0"))):
            model = open_source(ModelSource("tiny", directory), "float32")
            assert model is not None
            save_adapter(tmp_path / name, prefix, family="chatglm", base=base or model.base)
            open_source(ModelSource("tiny", directory, {"a": tmp_path / name}), "float32")
    assert [record.getMessage() for record in caplog.records] == [
        f"glm: adapter {tmp_path / 'other'} was trained on THUDM/x, whose weights are not those of tiny; "
        "its answers may be poor"
    ]


@pytest.mark.parametrize("kind", ["emb", "proj"])
def test_both_original_forms_give_the_golden_tokens(tmp_path: Path, kind: str) -> None:
    """Prefix-only files, the same among all weights of a model, and our own files: the golden answer."""
    case = next(case for case in cases("chatglm-6b") if case.name == f"ptuning_{kind}_greedy_24")
    prompt = case["input_ids"][0].tolist()
    original = V1 / f"ptuning-{kind}"
    full = tmp_path / "full"
    full.mkdir()
    base = torch.load(V1 / "ckpt" / "fp16-bin" / "pytorch_model.bin", weights_only=True)
    prefix = torch.load(original / "pytorch_model.bin", weights_only=True)
    torch.save({**base, **prefix}, full / "pytorch_model.bin")
    config, encoder = read_adapter(original)
    save_adapter(tmp_path / "ours", encoder, family=config.family, base=BaseModel("golden"))
    adapters = {"original": original, "full": full, "ours": tmp_path / "ours"}
    model = open_with_prompt(V1 / "ckpt" / "fp16-bin", prompt, adapters=adapters)
    for name in adapters:
        request = ChatRequest(
            (Message("user", "x"),), Sampling(do_sample=False, max_new_tokens=24), adapter=name
        )
        tokens = [token for delta in model.stream(request) for token in delta.token_ids]
        assert tokens == case["sequences"][0, len(prompt) :].tolist(), name


def test_sizes_are_needed_without_a_model(tmp_path: Path) -> None:
    """An original adapter is read without its model only if a config.json says the sizes."""
    shutil.copytree(V1 / "ptuning-proj", tmp_path / "original")
    config, _ = read_adapter(tmp_path / "original")
    assert (config.num_layers, config.num_kv_heads, config.head_dim, config.pre_seq_len) == (3, 4, 16, 8)
    assert config.base.name == "THUDM/chatglm-6b"
    (tmp_path / "original" / "config.json").unlink()
    with pytest.raises(AdapterError, match=containing("glm_adapter.json", "config.json")):
        read_adapter(tmp_path / "original")


def test_directory_is_looked_at_once(adapter: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever is asked of an opened adapter, its weight files are opened once."""
    opened: list[Path] = []

    def count(path: Path, inside: Path | None = None) -> Checkpoint:
        opened.append(path)
        return Checkpoint(path, inside=inside)

    monkeypatch.setattr(directory_module, "Checkpoint", count)
    found = open_adapter(adapter)
    found.require(pre_seq_len=6, prefix_projection=True)
    load_prefix_encoder(found, CHATGLM, CONFIG)
    assert opened == [adapter]
    with pytest.raises(AdapterError, match="pre_seq_len 6, but pre_seq_len 7"):
        found.require(pre_seq_len=7)


def test_record_says_what_a_directory_holds() -> None:
    """An adapter of the original has its settings in the shapes, and no file of ours."""
    found = open_adapter(V1 / "ptuning-proj")
    assert found.stated is None
    assert (found.prefix.pre_seq_len, found.prefix.prefix_projection) == (8, True)
    assert found.published["num_layers"] == 3
