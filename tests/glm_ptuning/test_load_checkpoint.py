"""The original's ``load_ptuning_checkpoint`` on its own checkpoints."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from glm_ptuning._load_checkpoint import load_ptuning_checkpoint
from glm_runtime_torch.adapters.files import BaseModel, save_adapter
from glm_runtime_torch.adapters.loading import read_adapter
from goldens import DATA, cases
from key_words import containing
from tiny_adapters import write_adapter
from tiny_models import tiny_checkpoint, train_vocabulary

import glm_core.compat as ChatGLM6Bpkg  # as the original's users write it
from glm_core import AdapterError, CheckpointError, ConfigError

V1 = DATA / "chatglm-6b"


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model with a vocabulary of its own."""
    return tiny_checkpoint(tmp_path_factory.mktemp("model") / "tiny", hidden_size=64)


@pytest.fixture(scope="module")
def adapter(directory: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A prefix of 5 positions for it, in the original's form."""
    return write_adapter(tmp_path_factory.mktemp("adapter") / "checkpoint-100", directory)


@pytest.mark.parametrize("kind", ["emb", "proj"])
def test_the_golden_answer_comes_out(tmp_path: Path, kind: str) -> None:
    """Both kinds of prefix over the golden base, made float32: the original's tokens."""
    case = next(case for case in cases("chatglm-6b") if case.name == f"ptuning_{kind}_greedy_24")
    shutil.copytree(V1 / "ckpt" / "fp16-bin", tmp_path / "base")
    train_vocabulary(tmp_path / "base")
    _, config, model = load_ptuning_checkpoint(str(tmp_path / "base"), str(V1 / f"ptuning-{kind}"), 8)
    assert (config.pre_seq_len, config.prefix_projection) == (8, kind == "proj")
    sequences = model.float().generate(
        case["input_ids"], max_new_tokens=24, do_sample=False, eos_token_id=None, use_cache=True
    )
    assert sequences.tolist() == case["sequences"].tolist()


def test_the_base_is_half_and_the_prefix_whole(directory: Path, adapter: Path) -> None:
    """Half precision, prefix in float32, evaluation mode, only the prefix trainable."""
    _, _, model = load_ptuning_checkpoint(str(directory), str(adapter), 5)
    types = {
        name.startswith("transformer.prefix_encoder."): value.dtype
        for name, value in model.named_parameters()
    }
    assert types == {True: torch.float32, False: torch.float16}
    assert not model.training
    trained = {name for name, value in model.named_parameters() if value.requires_grad}
    assert trained == {"transformer.prefix_encoder.embedding.weight"}


@pytest.mark.parametrize("bits", [None, 8, 4])
def test_readme_block(
    directory: Path, adapter: Path, monkeypatch: pytest.MonkeyPatch, bits: int | None
) -> None:
    """The README's loading block with import, model and paths changed, without ``.cuda()``: it chats."""
    tokenizer, _, model = ChatGLM6Bpkg.ptuning.load_ptuning_checkpoint(
        model_name_or_path=str(directory),
        ptuning_checkpoint=str(adapter),
        pre_seq_len=5,
        quantization_bit=bits,
    )
    model = model.float()
    model = model.eval()
    started: dict[str, Any] = {}

    def start(info: Any, opener: Any, options: Any) -> None:
        with opener() as chat_model:
            started["answer"] = chat_model.chat("你好", do_sample=False, max_new_tokens=8)[0]

    monkeypatch.setattr(ChatGLM6Bpkg, "start_frontend", start)
    ChatGLM6Bpkg.launch_web_demo(model=model, tokenizer=tokenizer)
    prompt = len(tokenizer("你好")["input_ids"])
    response, history = model.chat(tokenizer, "你好", history=[], do_sample=False, max_length=prompt + 8)
    assert started["answer"] == response
    assert history == [("你好", response)]
    if bits is not None:
        names = {name for name, value in model.named_parameters() if value.dtype == torch.int8}
        assert len(names) == 2 * 4


def test_cuda_without_a_gpu_says_what_to_leave_out(directory: Path, adapter: Path) -> None:
    """The README's ``.cuda()`` is one sentence on a machine that has none."""
    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    _, _, model = load_ptuning_checkpoint(str(directory), str(adapter), 5)
    with pytest.raises(Exception, match=r"leave \.half\(\)\.cuda\(\) out and call \.float\(\)"):
        model.cuda()


def test_our_own_files_load_too(directory: Path, adapter: Path, tmp_path: Path) -> None:
    """What training writes today gives the model that the original's files give."""
    shutil.copy(directory / "config.json", tmp_path / "config.json")
    shutil.copy(adapter / "model.safetensors", tmp_path / "model.safetensors")
    config, encoder = read_adapter(tmp_path)
    save_adapter(tmp_path / "job" / "checkpoint-7", encoder, family=config.family, base=BaseModel("tiny"))
    tokenizer, _, ours = load_ptuning_checkpoint(str(directory), str(tmp_path / "job"), 5)
    _, _, theirs = load_ptuning_checkpoint(str(directory), str(adapter), 5)
    first, second = (
        model.float().chat(tokenizer, "hello", do_sample=False, max_length=24)[0] for model in (ours, theirs)
    )
    assert first == second


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (
            {"pre_seq_len": 128},
            AdapterError,
            r"pre_seq_len 5, but pre_seq_len 128 is asked for; pass pre_seq_len=5",
        ),
        ({"ptuning_checkpoint": "/none"}, AdapterError, "adapter directory /none does not exist"),
        ({"ptuning_checkpoint": str(V1 / "ptuning-emb")}, AdapterError, "trained on another model"),
        ({"quantization_bit": 3}, ConfigError, "quantization_bit must be 4 or 8, got 3"),
        (
            {"model_name_or_path": str(DATA / "chatglm2-6b" / "ckpt" / "fp16-safetensors")},
            CheckpointError,
            "is no ChatGLM-6B",
        ),
    ],
)
def test_what_does_not_fit_is_refused(
    directory: Path, adapter: Path, change: dict[str, Any], error: type[Exception], message: str
) -> None:
    """Each mismatch is one sentence with both values."""
    wanted = {"model_name_or_path": str(directory), "ptuning_checkpoint": str(adapter), "pre_seq_len": 5}
    with pytest.raises(error, match=message):
        load_ptuning_checkpoint(**{**wanted, **change})


def test_a_quantised_base_is_not_quantised_otherwise(tmp_path: Path) -> None:
    """An int4 base with quantization_bit 8 is refused; with 4 it stays what it is."""
    shutil.copytree(DATA / "quantization" / "ckpt-int4", tmp_path / "base")
    train_vocabulary(tmp_path / "base")
    arguments = (str(tmp_path / "base"), str(V1 / "ptuning-emb"), 8)
    with pytest.raises(ConfigError, match=containing("4 bits already", "quantization_bit 8")):
        load_ptuning_checkpoint(*arguments, quantization_bit=8)
    _, config, _ = load_ptuning_checkpoint(*arguments, quantization_bit=4)
    assert config.quantization_bit == 4


def test_a_home_directory_is_understood(
    directory: Path, adapter: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both paths may begin with ``~``."""
    monkeypatch.setenv("HOME", str(adapter.parent))
    monkeypatch.setenv("USERPROFILE", str(adapter.parent))
    assert os.path.expanduser("~") == str(adapter.parent)
    load_ptuning_checkpoint(str(directory), f"~/{adapter.name}", 5)
