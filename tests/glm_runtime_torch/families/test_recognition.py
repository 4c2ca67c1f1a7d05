"""Tests of what `identify_model` of the torch runtime says, and that it costs nothing."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
from child_process import run
from glm_runtime_torch.families.recognition import KIND, family_name, identify

from glm_core import CheckpointError
from glm_core.records import ModelSource


def written(folder: Path, config: str) -> ModelSource:
    """A directory with a ``config.json``."""
    (folder / "config.json").write_text(config, "utf-8")
    return ModelSource("m", folder)


@pytest.mark.parametrize(
    ("config", "family"),
    [
        ({"model_type": "chatglm", "inner_hidden_size": 1}, "chatglm"),
        ({"model_type": "chatglm", "multi_query_group_num": 2, "seq_length": 32768}, "chatglm2"),
        ({"model_type": "chatglm", "multi_query_group_num": 2, "seq_length": 8192}, "chatglm3"),
        ({"model_type": "chatglm", "multi_query_group_num": 2, "padded_vocab_size": 151552}, "glm4-9b"),
        ({"model_type": "glm4_moe"}, "glm4_moe"),
    ],
)
def test_directory_is_known_by_its_config(config: dict[str, Any], family: str, tmp_path: Path) -> None:
    """The match names the kind, for backends, and the family, for people."""
    match = identify(written(tmp_path, json.dumps(config)))
    assert match is not None
    assert match.kind == KIND
    assert family in match.reason
    assert family_name(config) == family


def test_what_is_not_ours_is_declined(tmp_path: Path) -> None:
    """Another model type, an empty directory, a bare name, an object of another class."""
    assert identify(ModelSource("m", tmp_path)) is None
    assert identify(written(tmp_path, '{"model_type": "llama"}')) is None
    assert identify(ModelSource("remote:x")) is None
    assert identify(ModelSource("m", model=object(), tokenizer=object())) is None


@pytest.mark.parametrize("text", ["{", "[]", "version https://git-lfs.github.com/spec/v1\n"])
def test_damaged_config_says_so(text: str, tmp_path: Path) -> None:
    """Core names the runtime and goes on to the next."""
    with pytest.raises(CheckpointError, match=r"config\.json"):
        identify(written(tmp_path, text))


def test_looking_imports_no_torch() -> None:
    """``glm plugins --model`` and every choice of a runtime are quick."""
    code = (
        "import sys; from glm_core import cli; assert cli.main(['plugins', '--model', 'demo']) == 0; "
        "assert not {'torch', 'numpy', 'transformers'} & set(sys.modules)"
    )
    done = run(sys.executable, "-c", code)
    assert done.returncode == 0, done.stderr
