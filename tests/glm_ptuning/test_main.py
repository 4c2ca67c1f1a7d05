"""``python -m glm_ptuning``."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from fake_plugins import run_python
from glm_ptuning.__main__ import main
from goldens import DATA
from key_words import missing_words

ADAPTER = DATA / "chatglm-6b" / "ptuning-proj"


def test_show_prints_what_an_adapter_is(capsys: pytest.CaptureFixture[str]) -> None:
    """Facts as JSON, for an original checkpoint too."""
    assert main(["show", str(ADAPTER)]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert (facts["family"], facts["pre_seq_len"], facts["prefix_projection"]) == ("chatglm", 8, True)
    assert facts["num_parameters"] == 8 * 64 + 64 * 64 + 64 + 384 * 64 + 384


def test_export_writes_and_prints_the_place(tmp_path: Path) -> None:
    """In a process of its own: the directory is the only output."""
    done = run_python("-m", "glm_ptuning", "export", str(ADAPTER), str(tmp_path / "peft"), "--format", "peft")
    assert (done.returncode, done.stdout, done.stderr) == (0, f"{tmp_path / 'peft'}\n", "")
    config = json.loads((tmp_path / "peft" / "adapter_config.json").read_text())
    assert (config["peft_type"], config["num_virtual_tokens"], config["token_dim"]) == (
        "PREFIX_TUNING",
        8,
        64,
    )
    assert sorted(path.name for path in (tmp_path / "peft").iterdir()) == [
        "adapter_config.json",
        "adapter_model.safetensors",
    ]


def test_an_error_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Status 2 and a sentence, no traceback."""
    assert main(["export", str(tmp_path / "none"), str(tmp_path / "peft")]) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert not missing_words(line, "glm: ", str(tmp_path / "none"), "does not exist")
