"""A quantised copy of every family: written by the command, opened by itself, and the same in its answers."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from glm_hub.model_files import find_companions
from glm_runtime_torch.checkpoints.json_file import read_json
from glm_runtime_torch.families.registry import find_family
from glm_runtime_torch.loading import open_source
from safetensors.torch import load_file, save_file
from tiny_families import MAKERS

from glm_core import ChatRequest, Message, Sampling
from glm_core.cli import main
from glm_core.records import ModelSource, QuantizationScheme

TEXTS = ("hello", "你好", "how do I quantise a model?", "<|user|> [gMASK]")


@pytest.fixture(scope="module", params=MAKERS)
def source(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model of one family, with files that belong to no model beside it."""
    directory = MAKERS[request.param](tmp_path_factory.mktemp("source") / request.param)
    found = find_family(read_json(directory / "config.json"))
    assert found is not None
    assert found.name == request.param
    (directory / "modeling_of_a_stranger.py").write_text("raise SystemExit", "utf-8")
    (directory / "trainer_state.json").write_text("{}", "utf-8")
    return directory


def ids_and_answers(directory: Path, scheme: QuantizationScheme | None = None) -> list[list[int]]:
    """Return the ids of some texts and of the greedy answers to them, computed by the reference layers.

    Backends quantise more than a copy stores (an untied head), so their answers may differ from the copy's.
    """
    model = open_source(ModelSource("tiny", directory), "float32")
    assert model is not None
    if scheme is not None:
        model.quantize(scheme)
    model.materialize(torch.device("cpu"))
    model.start(torch.device("cpu"), slots=1)
    found = [model.tokenizer.encode(text) for text in TEXTS]
    for text in TEXTS:
        request = ChatRequest((Message("user", text),), Sampling(do_sample=False, max_new_tokens=12))
        found.append([token for delta in model.stream(request) for token in delta.token_ids])
    model.close()
    return found


def test_copy_loads_without_its_source_and_answers_the_same(source: Path, tmp_path: Path) -> None:
    """``glm quantize`` takes along all that the copy needs: same tokens, same answers, no foreign file."""
    expected = ids_and_answers(source, QuantizationScheme(8))
    assert all(expected[: len(TEXTS)])
    assert any(expected[len(TEXTS) :])
    moved, copy = tmp_path / "moved", tmp_path / "copy"
    shutil.copytree(source, moved)
    assert main(["quantize", str(moved), str(copy), "--bits", "8"]) == 0
    shutil.rmtree(moved)
    assert ids_and_answers(copy) == expected
    assert find_companions(copy) == find_companions(source)
    assert not (copy / "modeling_of_a_stranger.py").exists()
    assert not (copy / "trainer_state.json").exists()


def test_command_line_chats_with_the_copy(
    source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """``glm chat`` opens an int4 copy and answers one question."""
    copy = tmp_path / "copy"
    assert main(["quantize", str(source), str(copy), "--bits", "4"]) == 0
    capsys.readouterr()
    assert main(["chat", "--model", str(copy), "--device", "cpu", "--max-new-tokens", "4", "hello"]) == 0
    assert "Error" not in capsys.readouterr().err


@pytest.mark.parametrize("wanted", ["auto", "chatglm2", "chatglm3"])
def test_a_copy_records_the_family_that_its_files_leave_open(
    wanted: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """What was guessed, or said with ``--family``, is what the copy is, without a notice."""
    source, copy = MAKERS["chatglm3"](tmp_path / "source"), tmp_path / "copy"
    config = read_json(source / "config.json")
    del config["_name_or_path"]
    config["seq_length"] = 8192  # ChatGLM3's, so the guess is not what is taken where nothing is known
    (source / "config.json").write_text(json.dumps(config), "utf-8")
    assert main(["quantize", str(source), str(copy), "--bits", "8", "--family", wanted]) == 0
    caplog.clear()
    found = find_family(read_json(copy / "config.json"), copy)
    assert found is not None
    assert found.name == ("chatglm3" if wanted == "auto" else wanted)
    assert not caplog.records


def test_a_copy_records_what_only_code_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The code that names the roles is not copied, so the copy says itself which family it is of."""
    source, copy = MAKERS["chatglm3"](tmp_path / "source"), tmp_path / "copy"
    config = read_json(source / "config.json")
    del config["_name_or_path"]
    config["seq_length"] = 32768
    (source / "config.json").write_text(json.dumps(config), "utf-8")
    (source / "tokenization_chatglm.py").write_text('ROLES = ["<|user|>"]', "utf-8")
    assert main(["quantize", str(source), str(copy), "--bits", "8"]) == 0
    found = find_family(read_json(copy / "config.json"), copy)
    assert found is not None
    assert found.name == "chatglm3"
    assert not caplog.records


def test_a_copy_whose_files_tell_its_family_records_nothing(source: Path, tmp_path: Path) -> None:
    """``config.json`` stays as published but for what is stored otherwise."""
    assert main(["quantize", str(source), str(tmp_path / "copy"), "--bits", "8"]) == 0
    before, after = read_json(source / "config.json"), read_json(tmp_path / "copy/config.json")
    assert {key for key in after if key not in before} <= {"quantization_bit", "quantization_embeddings"}


def test_blocks_that_the_network_does_not_have_are_copied_as_they_are(tmp_path: Path) -> None:
    """GLM-4.5 is published with one block more, for predicting further tokens, which nothing here runs."""
    source, copy = MAKERS["glm4_moe"](tmp_path / "source"), tmp_path / "copy"
    state = load_file(source / "model.safetensors")
    last = max(int(name.split(".")[2]) for name in state if name.startswith("model.layers."))
    further = {
        name.replace(f"layers.{last}.", f"layers.{last + 1}."): value.clone()
        for name, value in state.items()
        if name.startswith(f"model.layers.{last}.")
    } | {f"model.layers.{last + 1}.eh_proj.weight": torch.ones(2, 4).half()}
    expected = ids_and_answers(source, QuantizationScheme(8))
    save_file(state | further, source / "model.safetensors", {"format": "pt"})
    assert ids_and_answers(source, QuantizationScheme(8)) == expected
    assert main(["quantize", str(source), str(copy), "--bits", "8"]) == 0
    assert ids_and_answers(copy) == expected
    written = load_file(copy / "model.safetensors")
    assert all(torch.equal(written[name], value) for name, value in further.items())
