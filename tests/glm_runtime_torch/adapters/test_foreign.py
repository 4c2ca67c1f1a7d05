"""What people pass as an adapter and what is none: each is named, with what to do."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from glm_runtime_torch.adapters.directory import open_adapter
from goldens import DATA
from safetensors.torch import save_file

from glm_core import AdapterError

V1 = DATA / "chatglm-6b"
ROWS = {"weight": torch.zeros(2, 3)}


def peft(directory: Path, method: object = "LORA", weights: str = "adapter_model.safetensors") -> Path:
    """Write PEFT's two files, as far as they matter, into the folder, and return it."""
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "adapter_config.json").write_text(json.dumps({"peft_type": method}))
    (directory / weights).write_bytes(b"x")
    return directory


def tensors(directory: Path, *names: str, file: str = "model.safetensors") -> Path:
    """Write weights with these names into the folder, and return it."""
    directory.mkdir(parents=True, exist_ok=True)
    content = {name: torch.zeros(4, 6) for name in names}
    if file.endswith(".bin"):
        torch.save(content, directory / file)
    else:
        save_file(content, directory / file)
    return directory


def whole_model(directory: Path) -> None:
    """Write what training all weights leaves."""
    tensors(directory, "transformer.word_embeddings.weight", "lm_head.weight")
    (directory / "config.json").write_bytes((V1 / "ckpt" / "fp16-bin" / "config.json").read_bytes())


def job(directory: Path, write: Callable[[Path], object]) -> None:
    """Write a training job whose newest checkpoint is that."""
    (directory / "checkpoint-2").mkdir(parents=True)
    write(directory / "checkpoint-10")


@pytest.mark.parametrize(
    ("write", "words"),
    [
        (peft, ["LoRA", "peft_type", "LORA", "merge_and_unload", "--model"]),
        (lambda d: peft(d, weights="adapter_model.bin"), ["LoRA", "merge_and_unload", "--model"]),
        (lambda d: peft(d, "IA3"), ["LoRA-like", "IA3", "merge_and_unload"]),
        (lambda d: peft(d, "PREFIX_TUNING"), ["PEFT", "PREFIX_TUNING", "checkpoint-N"]),
        (lambda d: peft(d, "P_TUNING", "adapter_model.bin"), ["PEFT", "P_TUNING", "checkpoint-N"]),
        (lambda d: peft(d, ["\x1b[31m" * 99]), ["PEFT", "peft_type", "checkpoint-N"]),
        (lambda d: (peft(d) / "adapter_config.json").unlink(), ["PEFT", "adapter_config.json"]),
        (lambda d: (peft(d) / "adapter_config.json").write_text("["), ["PEFT", "not valid JSON"]),
        (lambda d: (peft(d) / "adapter_model.safetensors").unlink(), ["LoRA", "merge_and_unload"]),
        (lambda d: job(d, peft), ["checkpoint-10", "LoRA", "merge_and_unload"]),
        (
            lambda d: tensors(d, "base_model.model.transformer.layers.0.attention.query.lora_A.weight"),
            ["LoRA", "merge_and_unload", "--model"],
        ),
        (
            lambda d: tensors(d, "layers.0.query.lora_B.default.weight", file="pytorch_model.bin"),
            ["LoRA", "merge_and_unload"],
        ),
        (lambda d: tensors(d, "prompt_embeddings"), ["PEFT", "checkpoint-N"]),
        (whole_model, ["whole chatglm model", "--model"]),
        (lambda d: job(d, whole_model), ["checkpoint-10", "whole chatglm model", "--model"]),
        (
            lambda d: tensors(d, "model.embed_tokens.weight", "lm_head.weight", file="pytorch_model.bin"),
            ["whole model", "config.json", "--model"],
        ),
        (lambda d: tensors(d, "a" * 5000, "b"), ["no prefix encoder", "prefix_encoder.embedding.weight"]),
        (lambda d: (d / "checkpoint-5").mkdir(parents=True), ["training job", "first checkpoint"]),
        (lambda d: (d / "x.gguf").write_bytes(b"GGUF"), ["GGUF", "x.gguf"]),
        (lambda d: [tensors(d / name, "w") for name in ("ads", "poet")], ["pass one of them", "ads"]),
        (lambda d: (d / "notes.txt").touch(), ["model.safetensors", "pytorch_model.bin", "notes.txt"]),
        (lambda d: None, ["model.safetensors", "nothing"]),
    ],
)
def test_what_is_no_adapter_is_named_with_what_to_do(
    tmp_path: Path, write: Callable[[Path], object], words: list[str]
) -> None:
    """The sentence has the method or kind, and the command or directory to use instead; it stays short."""
    directory = tmp_path / "given"
    directory.mkdir()
    write(directory)
    with pytest.raises(AdapterError) as caught:
        open_adapter(directory)
    message = str(caught.value)
    assert str(directory) in message
    assert [word for word in words if word not in message] == []
    assert len(message.replace(str(tmp_path), "")) < 500
    assert message.isprintable()


def test_file_in_place_of_its_directory_is_told(tmp_path: Path) -> None:
    """The directory that holds it is to be passed."""
    tensors(tmp_path, "w")
    with pytest.raises(AdapterError, match=r"model\.safetensors is a file.*directory"):
        open_adapter(tmp_path / "model.safetensors")


@pytest.mark.parametrize("start", ["", "prefix_encoder.", "transformer.prefix_encoder."])
@pytest.mark.parametrize("wrapper", ["", "module.", "base_model.model.", "_orig_mod.module."])
def test_prefix_is_found_behind_what_wrappers_put_in_front(tmp_path: Path, start: str, wrapper: str) -> None:
    """Data parallelism, compilation and PEFT add to the names; the prefix is the same."""
    tensors(tmp_path, f"{wrapper if start else ''}{start}embedding.weight")
    found = open_adapter(tmp_path)
    assert (found.prefix.pre_seq_len, found.prefix.kv_size) == (4, 6)


def test_two_prefixes_in_one_file_are_refused(tmp_path: Path) -> None:
    """Taking one of them would be a guess."""
    tensors(tmp_path, "a.prefix_encoder.embedding.weight", "b.prefix_encoder.embedding.weight")
    with pytest.raises(AdapterError, match="several prefix encoders.*a\\.prefix.*b\\.prefix.*keep only"):
        open_adapter(tmp_path)
