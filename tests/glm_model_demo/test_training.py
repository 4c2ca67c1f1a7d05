"""The script that trained the demo model still makes a model that loads."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import glm_core

SCRIPT = Path(__file__).parents[2] / "plugins" / "glm_model_demo" / "training" / "train.py"


@pytest.mark.timeout(600)
def test_training_from_nothing_writes_a_model_that_chats(tmp_path: Path) -> None:
    """Vocabulary, corpus, two steps, model directory: `glm` opens the result like any checkpoint."""
    command = [sys.executable, str(SCRIPT), "--output", str(tmp_path), "--steps", "2", "--threads", "1"]
    subprocess.run([*command, "--hidden-size", "32", "--layers", "1"], timeout=500, check=True)
    with glm_core.load(tmp_path, device="cpu", dtype="float32") as model:
        assert model.info.sampling.do_sample is False
        reply, _ = model.chat("你好", max_new_tokens=4)
    assert isinstance(reply, str)
