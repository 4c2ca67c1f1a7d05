"""A job that is killed and started again, in processes of their own."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import pytest
from child_process import ChildProcess, run
from tiny_models import tiny_checkpoint
from tiny_training import trained_files, write_rows


@pytest.fixture
def command(tmp_path: Path) -> list[str]:
    """A job of 120 steps with a checkpoint every 25; the output directory is still missing."""
    model = tiny_checkpoint(tmp_path / "model")
    rows = write_rows(tmp_path / "rows.json")
    return [
        *(sys.executable, "-m", "glm_core", "train", "ptuning"),
        *("--model", str(model), "--device", "cpu", "--dtype", "float32"),
        *("--train-file", str(rows), "--prompt-column", "content", "--response-column", "summary"),
        *("--pre-seq-len", "4", "--prefix-projection", "--learning-rate", "0.05", "--max-steps", "120"),
        *("--save-steps", "25", "--logging-steps", "20", "--set", "report_to=none"),
        *("--per-device-train-batch-size", "2", "--gradient-accumulation-steps", "2", "--output-dir"),
    ]


def test_a_job_killed_and_started_again_ends_in_the_same_bytes(command: list[str], tmp_path: Path) -> None:
    """SIGKILL between two checkpoints, the same command again: adapter, optimiser and log are bit-equal."""
    whole = run(*command, tmp_path / "whole")
    assert (whole.returncode, whole.stdout) == (0, f"{tmp_path / 'whole' / 'checkpoint-120'}\n"), whole.stderr
    killed = tmp_path / "killed"
    with ChildProcess(*command, killed) as process:
        process.wait_for("step 30 of 120")
        process.kill()
    assert process.returncode == -signal.SIGKILL
    assert not (killed / "checkpoint-120").exists()
    again = run(*command, killed)
    assert again.returncode == 0, again.stderr
    assert f"going on after {killed / 'checkpoint-'}" in again.stderr
    assert trained_files(killed, 120) == trained_files(tmp_path / "whole", 120)


STOPS = pytest.mark.parametrize(
    ("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)]
)


@pytest.mark.skipif(os.name == "nt", reason="signals reach a child there by other means")
@STOPS
def test_a_signal_stops_after_the_step_and_says_how_to_go_on(
    command: list[str], tmp_path: Path, number: int, status: int
) -> None:
    """Ctrl-C, a service manager's stop and a closed terminal: no traceback, the step's checkpoint is kept."""
    out = tmp_path / "out"
    with ChildProcess(*command, out) as process:
        process.wait_for("step 30 of 120")
        process.send_signal(number)
        stopped = process.finish()
    text = stopped.stderr
    assert stopped.returncode == status, text
    assert "Traceback" not in text
    assert "stopping after this step, its checkpoint is kept" in text
    assert "; the same command goes on from there" in text
    steps = [path.name for path in out.glob("checkpoint-*")]
    assert any(int(name.partition("-")[2]) >= 30 for name in steps), steps
    assert run(*command, out).returncode == 0


@pytest.mark.skipif(os.name == "nt", reason="signals reach a child there by other means")
@STOPS
def test_a_signal_keeps_a_checkpoint_in_the_python_call_too(tmp_path: Path, number: int, status: int) -> None:
    """A program that calls `ptuning` ends as the signal wants, after the step."""
    model, rows = tiny_checkpoint(tmp_path / "model"), write_rows(tmp_path / "rows.json")
    program = tmp_path / "program.py"
    program.write_text(
        "import glm_core.compat as package\n"
        "package.ptuning.ptuning(do_train=True, no_cuda=True, prompt_column='content',\n"
        f"    response_column='summary', model_name_or_path={str(model)!r}, train_file={str(rows)!r},\n"
        f"    output_dir={str(tmp_path / 'out')!r}, pre_seq_len=4, max_steps=100000, logging_steps=1,\n"
        "    save_steps=100000, report_to='none', per_device_train_batch_size=1)\n",
        "utf-8",
    )
    with ChildProcess(sys.executable, program) as process:
        process.wait_for("step 3 of")
        process.send_signal(number)
        stopped = process.finish()
    # Python itself ends by Ctrl-C with a traceback, as any program of the user's does.
    assert stopped.returncode in (status, -number), stopped.stderr
    assert "; the same call goes on from there" in stopped.stderr
    (kept,) = (tmp_path / "out").glob("checkpoint-*")
    assert (kept / "complete.json").is_file()
