"""Tests of what `identify_model` of the torch runtime says, and that it costs nothing."""

from __future__ import annotations

import contextlib
import json
import sys
from pathlib import Path
from typing import Any

import pytest
from child_process import run
from glm_runtime_torch.families.recognition import KIND, Recognition, identify, recognize
from hypothesis import given, strategies as st
from tiny_models import tiny_checkpoint2

import glm_core
from glm_core import CheckpointError, ConfigError
from glm_core.records import ModelSource

LATER = {"model_type": "chatglm", "multi_query_group_num": 2}  # ChatGLM2 and ChatGLM3 alike
ROLES = '{"added_tokens_decoder": {"64795": {"content": "<|user|>"}}}'
ROUNDS = '{"chat_template": "[Round {{ loop.index }}]\\n"}'


def write_config(folder: Path, config: str) -> ModelSource:
    """Write a ``config.json`` and return its directory as a source."""
    (folder / "config.json").write_text(config, "utf-8")
    return ModelSource("m", folder)


def recognize_in(folder: Path, files: dict[str, str], wanted: str = "auto", **config: Any) -> Recognition:
    """Return what a model of the later ChatGLM families with these files and keys is taken for."""
    for name, text in files.items():
        (folder / name).write_text(text, "utf-8")
    found = recognize({**LATER, **config}, folder, wanted)
    assert found is not None
    return found


@pytest.mark.parametrize(
    ("config", "family"),
    [
        ({"model_type": "chatglm", "inner_hidden_size": 1}, "chatglm"),
        ({**LATER, "_name_or_path": "THUDM/chatglm2-6b"}, "chatglm2"),
        ({**LATER, "_name_or_path": "zai-org/codegeex2-6b"}, "chatglm2"),
        ({**LATER, "_name_or_path": "THUDM/chatglm3-6b-32k", "seq_length": 32768}, "chatglm3"),
        ({**LATER, "padded_vocab_size": 151552}, "glm4-9b"),
        ({"model_type": "glm4_moe"}, "glm4_moe"),
    ],
)
def test_directory_is_known_by_its_config(config: dict[str, Any], family: str, tmp_path: Path) -> None:
    """The match names the kind, for backends, and the family, for people; nothing is left open."""
    match = identify(write_config(tmp_path, json.dumps(config)))
    assert match is not None
    assert match.kind == KIND
    assert family in match.reason
    found = recognize(config)
    assert found is not None
    assert (found.family, found.doubt) == (family, "")


@pytest.mark.parametrize("length", [8192, 32768, 131072, 2048])
@pytest.mark.parametrize("path", ["/models/chatglm2-6b", "C:\\chatglm3-6b", "THUDM/other", "", 3])
@pytest.mark.parametrize(
    ("files", "family"),
    [
        ({"tokenizer_config.json": ROLES}, "chatglm3"),
        ({"special_tokens_map.json": '{"additional_special_tokens": ["<|observation|>"]}'}, "chatglm3"),
        ({"added_tokens.json": '{"<|user|>": 64795}'}, "chatglm3"),
        ({"chat_template.jinja": "[gMASK]sop{% for m in messages %}<|{{ m.role }}|><|user|>"}, "chatglm3"),
        ({"tokenization_chatglm.py": 'role_special_tokens = ["<|system|>", "<|user|>"]'}, "chatglm3"),
        ({"tokenizer_config.json": ROUNDS}, "chatglm2"),
        ({"tokenization_chatglm.py": 'prompt += "[Round {}]\\n\\n问：{}"'}, "chatglm2"),
        ({"tokenizer_config.json": '{"name_or_path": "THUDM/chatglm3-6b"}'}, "chatglm3"),
        (
            {"tokenizer_config.json": '{"auto_map": {"AutoTokenizer": ["THUDM/chatglm2-6b--t.T", null]}}'},
            "chatglm2",
        ),
    ],
)
def test_the_tokenizers_files_decide_whatever_the_path_or_length(
    files: dict[str, str], family: str, length: int, path: object, tmp_path: Path
) -> None:
    """Control tokens of roles, a prompt of rounds and publishers' ids leave no doubt."""
    found = recognize_in(tmp_path, files, seq_length=length, _name_or_path=path)
    assert (found.family, found.doubt) == (family, "")


@pytest.mark.parametrize(
    ("config", "family"),
    [
        ({"seq_length": 8192}, "chatglm3"),
        ({"seq_length": 131072}, "chatglm3"),
        ({"seq_length": 32768}, "chatglm2"),
        ({"_name_or_path": "/models/chatglm3-6b-32k", "seq_length": 32768}, "chatglm3"),
        ({"_name_or_path": "models/chatglm2-6b", "seq_length": 8192}, "chatglm2"),
        (
            {"_name_or_path": "/chatglm3/mine", "seq_length": 32768},
            "chatglm2",
        ),  # a parent folder says nothing
        ({}, "chatglm2"),
    ],
)
def test_a_mere_hint_is_taken_with_doubt(config: dict[str, Any], family: str, tmp_path: Path) -> None:
    """A path's last part and a length are hints; the user is told what was taken, why, and what else."""
    found = recognize_in(tmp_path, {}, **config)
    other = {"chatglm2": "chatglm3", "chatglm3": "chatglm2"}[family]
    assert found.family == family
    assert f"taken for {family}" in found.doubt
    assert f"--family {other}" in found.doubt


def test_signs_that_disagree_are_told(tmp_path: Path) -> None:
    """Roles in the tokenizer of what was published as ChatGLM2: the chat format counts, with doubt."""
    found = recognize_in(
        tmp_path, {"tokenizer_config.json": ROLES}, _name_or_path="THUDM/chatglm2-6b", seq_length=32768
    )
    assert found.family == "chatglm3"
    assert "--family chatglm2" in found.doubt


def test_the_user_decides_among_what_is_possible(tmp_path: Path) -> None:
    """``--family`` wins over every sign, without doubt; what cannot be is refused with what can."""
    found = recognize_in(tmp_path, {"tokenizer_config.json": ROLES}, wanted="chatglm2")
    assert (found.family, found.doubt) == ("chatglm2", "")
    with pytest.raises(ConfigError, match=r"--family chatglm\b.*chatglm2 or chatglm3"):
        recognize(LATER, None, "chatglm")
    with pytest.raises(ConfigError, match="glm4_moe"):
        identify(ModelSource("m", write_config(tmp_path, '{"model_type": "glm4_moe"}').path, family="glm4"))


def test_what_a_copy_records_decides_until_the_user_does(tmp_path: Path) -> None:
    """A recorded family leaves no doubt whatever hints and signs say; ``--family`` still wins over it."""
    found = recognize_in(tmp_path, {"tokenizer_config.json": ROLES}, glm_family="chatglm2", seq_length=8192)
    assert (found.family, found.doubt) == ("chatglm2", "")
    assert recognize_in(tmp_path, {}, wanted="chatglm3", glm_family="chatglm2").family == "chatglm3"


@pytest.mark.parametrize("value", ["chatglm", "chatglm9", 3, [], {}, True, ""])
def test_a_recorded_family_that_cannot_be_is_refused(value: object, tmp_path: Path) -> None:
    """The file, the key, the value and what was expected are named."""
    with pytest.raises(CheckpointError, match=r"config\.json: glm_family is .*chatglm2 or chatglm3"):
        recognize_in(tmp_path, {}, glm_family=value)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8) | st.floats(allow_nan=False),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=6,
)
KEYS = ("model_type", "inner_hidden_size", "multi_query_group_num", "padded_vocab_size", "seq_length")


@given(st.dictionaries(st.sampled_from((*KEYS, "_name_or_path", "name_or_path", "auto_map")), JSON))
def test_no_value_of_any_key_is_stumbled_over(config: dict[str, Any]) -> None:
    """Whatever a file holds, it is of a family or of none."""
    recognize(config)
    found = recognize({**config, **LATER})
    assert found is None or found.family in ("chatglm", "chatglm2", "chatglm3", "glm4-9b")


def test_what_is_not_ours_is_declined(tmp_path: Path) -> None:
    """Another model type, an empty directory, a bare name, an object of another class."""
    assert identify(ModelSource("m", tmp_path)) is None
    assert identify(write_config(tmp_path, '{"model_type": "llama"}')) is None
    assert identify(ModelSource("remote:x")) is None
    assert identify(ModelSource("m", model=object(), tokenizer=object())) is None


@pytest.mark.parametrize("text", ["{", "[]", "version https://git-lfs.github.com/spec/v1\n"])
def test_damaged_config_says_so(text: str, tmp_path: Path) -> None:
    """Core names the runtime and goes on to the next."""
    with pytest.raises(CheckpointError, match=r"config\.json"):
        identify(write_config(tmp_path, text))


def test_looking_imports_neither_torch_nor_pydantic() -> None:
    """``glm plugins --model`` and every choice of a runtime are quick."""
    code = (
        "import sys; from glm_core import cli; assert cli.main(['plugins', '--model', 'demo']) == 0; "
        "assert not {'torch', 'numpy', 'transformers', 'pydantic'} & set(sys.modules)"
    )
    done = run(sys.executable, "-c", code)
    assert done.returncode == 0, done.stderr


def test_the_users_word_reaches_the_model_and_a_guess_is_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """``family=`` of `glm_core.load` decides the chat format; without it one line says what was taken."""
    directory = tiny_checkpoint2(tmp_path / "m", _name_or_path="/models/mine", seq_length=8192)
    found: dict[str, list[str]] = {}
    for wanted in ("auto", "chatglm2", "chatglm3"):
        caplog.clear()
        with contextlib.closing(glm_core.load(directory, family=wanted, device="cpu")) as model:
            found[wanted] = [model.info.family, *(line for line in caplog.messages if "--family" in line)]
    assert found["chatglm2"] == ["chatglm2"]
    assert found["chatglm3"] == ["chatglm3"]
    assert found["auto"][0] == "chatglm3"
    assert len(found["auto"]) == 2
    with pytest.raises(ConfigError, match="family 'chatglm4'.*chatglm3"):
        glm_core.load(directory, family="chatglm4", device="cpu")
    with pytest.raises(ConfigError, match="--family glm4_moe"):
        glm_core.load(directory, family="glm4_moe", device="cpu")
