"""P-Tuning on the later families: trained by the same trainer, served by the same engine."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from glm_hub.model_files import find_companions
from hostile_files import set_key
from key_words import containing
from tiny_families import MAKERS
from tiny_models import tiny_checkpoint, tiny_checkpoint2
from tiny_training import WORDS, losses, options, train, write_rows

import glm_core
from glm_core import AdapterError, cli

TUNED = ("chatglm2", "chatglm3", "glm4")


@pytest.mark.parametrize("family", TUNED)
def test_family_trains_and_serves(family: str, tmp_path: Path) -> None:
    """The loss falls, the adapter changes answers on the resident model, and the base answers as before."""
    directory = MAKERS[family](tmp_path / family)
    rows = write_rows(tmp_path / "rows.jsonl")
    job = options(rows, max_steps=30, learning_rate=0.3)
    found = losses(train(directory, tmp_path / "out", job))
    assert sum(found[-3:]) < sum(found[:3])
    ask: dict[str, Any] = {"temperature": 0, "max_new_tokens": 12}
    with glm_core.load(directory, device="cpu", dtype="float32") as model:
        before = [model.chat(word, **ask)[0] for word in WORDS]
        model.add_adapter("tuned", tmp_path / "out")
        tuned = [model.chat(word, adapter="tuned", **ask)[0] for word in WORDS]
        assert tuned != before
        assert [model.chat(word, **ask)[0] for word in WORDS] == before


def test_adapter_of_one_family_is_refused_by_another(tmp_path: Path) -> None:
    """A ChatGLM3 adapter on ChatGLM-6B: the sentence names both families."""
    other = tiny_checkpoint2(tmp_path / "chatglm3")
    train(other, tmp_path / "out", options(write_rows(tmp_path / "rows.jsonl"), max_steps=1))
    with glm_core.load(tiny_checkpoint(tmp_path / "v1"), device="cpu") as model:
        with pytest.raises(AdapterError, match=containing("family", "chatglm3", "chatglm")):
            model.add_adapter("tuned", tmp_path / "out")


@pytest.mark.parametrize("family", MAKERS)
def test_model_that_is_trained_in_full_loads_by_itself(family: str, tmp_path: Path) -> None:
    """A checkpoint of all weights has what belongs to the model: it loads, and it can be quantised."""
    directory = MAKERS[family](tmp_path / family)
    job = options(write_rows(tmp_path / "rows.jsonl"), pre_seq_len=0, max_steps=1, learning_rate=1e-3)
    train(directory, tmp_path / "out", job)
    tuned, copy = tmp_path / "out" / "checkpoint-1", tmp_path / "copy"
    assert find_companions(tuned) == find_companions(directory)
    ids = []
    for path in (directory, tuned):
        with glm_core.load(path, device="cpu") as model:
            ids.append([model.loaded.tokenizer.encode(word) for word in WORDS])  # type: ignore[attr-defined]
    assert ids[0] == ids[1]
    assert cli.main(["quantize", str(tuned), str(copy), "--bits", "8"]) == 0
    assert find_companions(copy) == find_companions(directory)
    with glm_core.load(copy, device="cpu", dtype="float32") as model:
        model.chat(WORDS[0], temperature=0, max_new_tokens=2)


@pytest.mark.parametrize("family", ["chatglm2", "chatglm3"])
def test_model_that_is_trained_in_full_is_of_the_family_that_was_said(
    family: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """``glm train --family`` decides where the files leave it open, and the checkpoint keeps that."""
    directory = MAKERS["chatglm3"](tmp_path / "model")
    set_key(directory / "config.json", ("_name_or_path",), "somewhere")
    rows = write_rows(tmp_path / "rows.jsonl")
    words = ["--train-file", str(rows), "--prompt-column", "content", "--response-column", "summary"]
    words += ["--pre-seq-len", "0", "--max-steps", "1", "--output-dir", str(tmp_path / "out")]
    asked = ["train", "ptuning", "--model", str(directory), "--family", family, "--device", "cpu", *words]
    assert cli.main(asked) == 0
    caplog.clear()
    with glm_core.load(tmp_path / "out" / "checkpoint-1", device="cpu", dtype="float32") as model:
        assert model.info.family == family
    assert not [record for record in caplog.records if "--family" in record.getMessage()]
