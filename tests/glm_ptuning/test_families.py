"""P-Tuning on the later families: trained by the same trainer, served by the same engine."""

from __future__ import annotations

from pathlib import Path

import pytest
from tiny_models import tiny_checkpoint, tiny_checkpoint2
from tiny_native import native_checkpoint
from tiny_training import WORDS, losses, options, train, write_rows

import glm_core
from glm_core import AdapterError

MAKERS = {
    "chatglm2": lambda folder: tiny_checkpoint2(folder, "chatglm2-6b"),
    "chatglm3": lambda folder: tiny_checkpoint2(folder, "chatglm3-6b"),
    "glm4": lambda folder: native_checkpoint(folder, "glm4"),
}


@pytest.mark.parametrize("family", MAKERS)
def test_family_trains_and_serves(family: str, tmp_path: Path) -> None:
    """The loss falls, the adapter changes answers on the resident model, and the base answers as before."""
    directory = MAKERS[family](tmp_path / family)
    rows = write_rows(tmp_path / "rows.jsonl")
    job = options(rows, max_steps=30, learning_rate=0.3)
    found = losses(train(directory, tmp_path / "out", job))
    assert sum(found[-3:]) < sum(found[:3])
    ask = {"temperature": 0, "max_new_tokens": 12}
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
        with pytest.raises(AdapterError, match="its family is chatglm3, that of this one is chatglm$"):
            model.add_adapter("tuned", tmp_path / "out")
