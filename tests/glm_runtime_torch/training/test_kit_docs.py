"""The guide to the kit for trainers: complete, and its example trains."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import glm_runtime_torch.training as kit
import torch
from glm_runtime_torch.adapters.loading import read_adapter
from glm_runtime_torch.loading import open_source
from tiny_models import tiny_checkpoint

from glm_core.records import ModelSource

GUIDE = Path(__file__).parents[3] / "docs" / "plugins" / "training-kit.md"


def test_guide_names_everything() -> None:
    """docs/plugins/training-kit.md explains every name of the kit, and no other."""
    named = set(re.findall(r"`(\w+)`", GUIDE.read_text("utf-8").partition("## Names")[2]))
    assert set(kit.__all__) <= named


def test_example_trains_and_writes_an_adapter(tmp_path: Path) -> None:
    """The guide's own text lowers the loss, and what it writes is an adapter of the model."""
    match = re.search(r"```python\n(.*?)```", GUIDE.read_text("utf-8"), re.DOTALL)
    assert match is not None
    names: dict[str, Any] = {}
    exec(match[1], names)
    model = open_source(ModelSource("tiny", tiny_checkpoint(tmp_path / "tiny")), "float32")
    rows = [("hello", "你好")]
    first = names["train_prefix"](model, rows, tmp_path / "first", steps=1)
    last = names["train_prefix"](model, rows, tmp_path / "last", steps=30)
    assert last < first
    config, encoder = read_adapter(tmp_path / "last")
    assert (config.family, config.pre_seq_len) == ("chatglm", 8)
    assert torch.isfinite(encoder()).all()
    assert names["train_prefix"](object(), rows, tmp_path / "none") is None
