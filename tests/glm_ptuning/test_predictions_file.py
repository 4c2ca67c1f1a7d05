"""The file of answers while it grows, is interrupted and gone on with."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path

import pytest
from glm_ptuning._predictions_file import NAME, PredictionsFile, write_results

from glm_core import ConfigError

LABELS = ["一", "二\n换行", "三"]
JOB = {"adapter": "a"}


def answer(directory: Path, texts: list[str], job: dict[str, str] | None = None) -> None:
    """Begin or go on with a job, answer some rows and stop as a kill would leave it."""
    with PredictionsFile(directory, job or JOB, LABELS) as file:
        for text in texts:
            file.append(text)


def test_the_finished_file_is_the_originals(tmp_path: Path) -> None:
    """One JSON object a line, keys in the original's order, nothing escaped, no other file left."""
    with PredictionsFile(tmp_path / "out", JOB, LABELS) as file:
        for text in ("答 “一”", "", "x\u2028y"):
            file.append(text)
        file.finish()
    assert file.path == tmp_path / "out" / NAME
    assert file.path.read_bytes().decode().split("\n") == [
        '{"labels": "一", "predict": "答 “一”"}',
        '{"labels": "二\\n换行", "predict": ""}',
        '{"labels": "三", "predict": "x\u2028y"}',
        "",
    ]
    assert [path.name for path in (tmp_path / "out").iterdir()] == [NAME]


def test_an_interrupted_job_goes_on(tmp_path: Path) -> None:
    """What was answered is on the disk at once, and the same job takes it up."""
    answer(tmp_path, ["甲"])
    partial = tmp_path / f"{NAME}.partial"
    assert json.loads(partial.read_text("utf-8")) == {"labels": "一", "predict": "甲"}
    answer(tmp_path, ["乙"])
    with PredictionsFile(tmp_path, JOB, LABELS) as file:
        assert file.predictions == ["甲", "乙"]
        file.append("丙")
        file.finish()
    assert [json.loads(line)["predict"] for line in file.path.read_text("utf-8").splitlines()] == [
        "甲",
        "乙",
        "丙",
    ]


def test_a_line_that_was_cut_off_is_written_again(tmp_path: Path) -> None:
    """Half of the last line, in the middle of a character, is dropped and the rest kept."""
    answer(tmp_path, ["甲", "乙"])
    partial = tmp_path / f"{NAME}.partial"
    partial.write_bytes(partial.read_bytes()[:-5])
    with PredictionsFile(tmp_path, JOB, LABELS) as file:
        assert file.predictions == ["甲"]
        file.append("新")
    assert [json.loads(line)["predict"] for line in partial.read_text("utf-8").splitlines()] == ["甲", "新"]


def test_another_jobs_answers_are_not_taken(tmp_path: Path) -> None:
    """Another adapter, model, file or setting begins anew."""
    answer(tmp_path, ["甲", "乙"])
    with PredictionsFile(tmp_path, {"adapter": "b"}, LABELS) as file:
        assert file.predictions == []
    assert (tmp_path / f"{NAME}.partial").read_bytes() == b""


def test_two_processes_do_not_share_a_directory(tmp_path: Path) -> None:
    """The second is refused; the first one's end lets the next in."""
    with (
        PredictionsFile(tmp_path, JOB, LABELS),
        pytest.raises(ConfigError, match="another process is answering"),
    ):
        PredictionsFile(tmp_path, JOB, LABELS).__enter__()
    with PredictionsFile(tmp_path, JOB, LABELS):
        pass


def test_what_cannot_be_written_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file in the directory's place, and a disk that fills up, are one sentence each."""
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="cannot be written: .*choose another output_dir"):
        PredictionsFile(tmp_path / "file" / "out", JOB, LABELS).__enter__()

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(ConfigError, match="No space left on device"):
        PredictionsFile(tmp_path / "out", JOB, LABELS).__enter__()
    with pytest.raises(ConfigError, match="No space left on device"):
        write_results(tmp_path, "predict", {"predict_bleu-4": 1.0})
    assert not (tmp_path / "predict_results.json").exists()


def test_results_join_those_of_training(tmp_path: Path) -> None:
    """all_results.json keeps what training wrote and takes the new scores."""
    (tmp_path / "all_results.json").write_text('{"train_loss": 0.5, "predict_bleu-4": 1}')
    own, everything = write_results(tmp_path, "predict", {"predict_bleu-4": 2.5})
    assert json.loads(own.read_text()) == {"predict_bleu-4": 2.5}
    assert json.loads(everything.read_text()) == {"train_loss": 0.5, "predict_bleu-4": 2.5}
    everything.write_text("[1")
    write_results(tmp_path, "predict", {"predict_bleu-4": 3.0})
    assert json.loads(everything.read_text()) == {"predict_bleu-4": 3.0}
