"""Tests of the one list of a model's files."""

from __future__ import annotations

from pathlib import Path

import pytest
from glm_hub.model_files import (
    SAFETENSORS,
    TORCH,
    WeightForm,
    find_companions,
    find_weight_form,
    is_companion,
)

COMPANIONS = (
    *("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "generation_config.json"),
    *("ice_text.model", "tokenizer.model", "qwen.tiktoken", "merges.txt", "chat_template.jinja"),
    *("MODEL_LICENSE", "LICENSE.md", "NOTICE"),
)
OTHERS = (
    *("config.json", "model.safetensors", "model-00001-of-00002.safetensors", "pytorch_model.bin"),
    *("model.safetensors.index.json", "pytorch_model.bin.index.json"),
    *("modeling_chatglm.py", "LICENSE.py", "README.md", "image.png"),
    *("trainer_state.json", "training_state.json", "all_results.json", "optimizer.safetensors"),
)


@pytest.mark.parametrize("name", COMPANIONS)
def test_companion_goes_with_the_model(name: str) -> None:
    """Tokenizer, vocabulary, template, default sampling and licence belong to a model."""
    assert is_companion(name)


@pytest.mark.parametrize("name", OTHERS)
def test_other_file_is_no_companion(name: str) -> None:
    """Configuration and weights are written anew; code and a training's own state are left behind."""
    assert not is_companion(name)


def test_companions_are_found_relative_to_the_directory(tmp_path: Path) -> None:
    """Further chat templates lie in a folder of their own; a job's checkpoints are not looked into."""
    for name in ("config.json", "tokenizer.json", "additional_chat_templates/rag.jinja"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("{}", "utf-8")
    (tmp_path / "checkpoint-1").mkdir()
    (tmp_path / "checkpoint-1" / "tokenizer.json").write_text("{}", "utf-8")
    found = [path.as_posix() for path in find_companions(tmp_path)]
    assert found == ["additional_chat_templates/rag.jinja", "tokenizer.json"]


@pytest.mark.parametrize("form", [SAFETENSORS, TORCH])
def test_weight_form_is_told_by_its_single_file_or_index(tmp_path: Path, form: WeightForm) -> None:
    """A single file or an index tells the form; safetensors are preferred where both are there."""
    assert find_weight_form(tmp_path) is None
    (tmp_path / form.index).write_text("{}", "utf-8")
    assert find_weight_form(tmp_path) is form
    (tmp_path / SAFETENSORS.single).write_bytes(b"")
    assert find_weight_form(tmp_path) is SAFETENSORS
