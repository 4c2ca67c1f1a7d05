"""TensorBoard's log and the picture of the loss."""

from __future__ import annotations

import errno
import logging
import shutil
from pathlib import Path
from typing import Any

import pytest
from glm_ptuning._logs import PLOT_FILE, TensorBoardLog, draw_losses
from streams import close_stream
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tiny_models import tiny_checkpoint
from tiny_training import options, reports, train, write_rows


def scalars(directory: Path, name: str) -> dict[int, float]:
    """What TensorBoard would show."""
    events = EventAccumulator(str(directory))
    events.Reload()
    return {event.step: event.value for event in events.Scalars(name)}


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_tensorboard_shows_each_step_once_after_a_resumed_job(tmp_path: Path) -> None:
    """Losses, rates and evaluations are logged; what a killed run wrote after its checkpoint is forgotten."""
    model, rows = tiny_checkpoint(tmp_path / "model"), write_rows(tmp_path / "rows.json")
    job = options(
        rows, report_to="tensorboard", validation_file=str(rows), evaluation_strategy="steps", eval_steps=6
    )
    running = reports(model, tmp_path / "out", job)
    for report in running:
        if report.step == 9:
            break
    close_stream(running)
    shutil.rmtree(tmp_path / "out" / "checkpoint-9")  # what a kill after step 9 would have left
    train(model, tmp_path / "out", job)
    runs = tmp_path / "out" / "runs"
    assert sorted(scalars(runs, "train/loss")) == [2, 4, 6, 8, 10, 12]
    assert sorted(scalars(runs, "eval/loss")) == [6, 12]
    assert scalars(runs, "train/learning_rate")[2] == pytest.approx(0.05 * 11 / 12)


def test_the_log_goes_where_it_is_told(tmp_path: Path) -> None:
    """logging_dir names another directory; report_to none writes nothing."""
    model, rows = tiny_checkpoint(tmp_path / "model"), write_rows(tmp_path / "rows.json")
    there = tmp_path / "there"
    train(
        model,
        tmp_path / "out",
        options(rows, report_to="tensorboard", logging_dir=str(there), max_steps=2),
    )
    assert list(there.glob("events.*"))
    assert not (tmp_path / "out" / "runs").exists()


def test_a_log_that_cannot_be_written_stops_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A full disk under the log alone is a warning; later entries are dropped."""
    log = TensorBoardLog(tmp_path / "runs", 0)

    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(log._writer, "add_scalar", full)
    with caplog.at_level(logging.WARNING, logger="glm"):
        log.add(1, {"loss": 1.0})
        log.add(2, {"loss": 1.0})
    log.close()
    assert [record.getMessage() for record in caplog.records] == [
        "TensorBoard's log cannot be written: No space left on device"
    ]


@pytest.mark.parametrize(
    "history",
    [
        [],
        [{"step": 1, "loss": 2.0}],
        [{"step": step, "loss": 1 / step} for step in range(1, 40)] + [{"step": 39, "eval_loss": 0.5}],
    ],
    ids=["empty", "one", "many"],
)
def test_the_picture_is_a_png_whatever_the_log_holds(tmp_path: Path, history: list[dict[str, Any]]) -> None:
    """No entry, one entry and many with an evaluation are drawn; more entries give another picture."""
    draw_losses(history, tmp_path / PLOT_FILE)
    content = (tmp_path / PLOT_FILE).read_bytes()
    assert content.startswith(b"\x89PNG")
    assert sorted(path.name for path in tmp_path.iterdir()) == [PLOT_FILE]
    draw_losses([*history, {"step": 99, "loss": 3.0}], tmp_path / PLOT_FILE)
    assert (tmp_path / PLOT_FILE).read_bytes() != content
