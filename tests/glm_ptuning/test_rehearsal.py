"""``--dry-run``: everything is checked and shown, nothing is written."""

from __future__ import annotations

import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from glm_ptuning._compat import ptuning
from key_words import containing
from tiny_models import tiny_checkpoint
from tiny_training import options, train, trained_files, write_rows

from glm_core import ConfigError
from glm_core.records import TrainProgress


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny checkpoint of two layers."""
    return tiny_checkpoint(tmp_path_factory.mktemp("model") / "tiny")


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    """Twenty rows."""
    return write_rows(tmp_path / "rows.json")


def list_lines(reports: list[TrainProgress]) -> list[str]:
    """What the user reads."""
    return [report.message for report in reports if report.message]


@pytest.mark.parametrize(
    "changed", [{}, {"pre_seq_len": None}, {"save_strategy": "no", "save_total_limit": 1}]
)
def test_a_dry_run_shows_the_first_batch_and_writes_nothing(
    model: Path, rows: Path, tmp_path: Path, changed: dict[str, Any]
) -> None:
    """Rows as text, what of them is learnt, disk and memory; then the real job goes as it would have gone."""
    reports = train(model, tmp_path / "out", options(rows, dry_run=True, **changed))
    lines = list_lines(reports)
    first = [line for line in lines if line.startswith("first batch, row")]
    assert len(first) == 2
    assert all(line.count("tokens are") == 2 for line in first)
    assert any("checkpoints take about" in line for line in lines)
    assert any(line.startswith("the longest batch (") and "GiB" in line for line in lines)
    assert lines[-1] == "dry run: nothing was written"
    assert reports[-1].finished
    assert [report for report in reports if report.loss is not None] == []
    assert not (tmp_path / "out").exists()


def test_what_is_learnt_is_the_answer(model: Path, tmp_path: Path) -> None:
    """The mask of the loss is where training has it."""
    rows = tmp_path / "rows.json"
    rows.write_text('{"content": "how do I", "summary": "world"}\n', "utf-8")
    reports = train(model, tmp_path / "out", options(rows, dry_run=True, per_device_train_batch_size=1))
    (line,) = [text for text in list_lines(reports) if text.startswith("first batch")]
    read, learnt = line.split(" | ")
    assert "how do I" in read
    assert "how do I" not in learnt
    assert learnt.endswith("world")
    assert "world" not in read


def test_a_dry_run_changes_nothing_for_the_job(model: Path, rows: Path, tmp_path: Path) -> None:
    """A job that was tried before, in the middle and at its end is the same bytes."""
    plain, tried = tmp_path / "plain", tmp_path / "tried"
    for folder in (plain, tried):
        train(model, folder, options(rows, max_steps=6))
        if folder == tried:
            train(model, folder, options(rows, max_steps=6, dry_run=True))
            train(model, folder, options(rows, max_steps=12, dry_run=True))
        train(model, folder, options(rows))
    assert trained_files(plain) == trained_files(tried)


def test_another_jobs_directory_is_named_and_kept(model: Path, rows: Path, tmp_path: Path) -> None:
    """Refused as it would be; with overwrite_output_dir it says what would be deleted, and keeps it."""
    out = tmp_path / "out"
    train(model, out, options(rows))
    kept = trained_files(out)
    with pytest.raises(ConfigError, match="its seed is 42, not 7"):
        train(model, out, options(rows, seed=7, dry_run=True))
    reports = train(model, out, options(rows, seed=7, dry_run=True, overwrite_output_dir=True))
    assert any("would be deleted" in line for line in list_lines(reports))
    assert trained_files(out) == kept


def test_too_little_room_is_refused(
    model: Path, rows: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before hours of training end on a full disk."""
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=1000))
    with pytest.raises(ConfigError, match=containing("save_total_limit", "MiB")):
        train(model, tmp_path / "out", options(rows, dry_run=True))


def test_the_python_call_takes_it_too(
    model: Path,
    rows: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Nothing is trained, evaluated or predicted after it."""
    monkeypatch.chdir(tmp_path)
    keywords = options(rows, dry_run=True, do_train=True, do_predict=True, test_file=str(rows))
    assert ptuning(model_name_or_path=str(model), no_cuda=True, output_dir="out", **keywords) == {}
    assert "dry run: nothing was written" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
