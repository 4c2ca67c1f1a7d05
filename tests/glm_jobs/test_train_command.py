"""``glm train`` as a user meets it: lists, bars, messages, interrupts; with the smallest trainer there is."""

from __future__ import annotations

import io
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from fake_plugins import plugin, run_python
from glm_jobs import _progress_bar, train
from glm_testing import make_host, null_backend, null_trainer

from glm_core import cli
from glm_core.plugins import PluginHost
from glm_core.records import Option, TrainerInfo, TrainJob, TrainProgress

Reports = Callable[[TrainJob], Iterator[TrainProgress] | None]


class Screen(io.StringIO):
    """Standard error that is a terminal."""

    def isatty(self) -> bool:
        """A terminal."""
        return True


def use(monkeypatch: pytest.MonkeyPatch, host: PluginHost) -> None:
    monkeypatch.setattr(train, "get_default_host", lambda: host)


def trainer(reports: Reports, *options: Option) -> Any:
    """A trainer called ``own`` that reports so."""
    info = TrainerInfo("own", "learns nothing", options)
    return plugin(describe_trainer=lambda: info, train=lambda model, job: reports(job))


@pytest.fixture
def lines(tmp_path: Path) -> Path:
    """A file for the null trainer."""
    path = tmp_path / "lines.txt"
    path.write_text("one\nthree\nfour\n", "utf-8")
    return path


@pytest.fixture
def null(monkeypatch: pytest.MonkeyPatch) -> None:
    """The null model and its trainer are what is installed."""
    use(monkeypatch, make_host(null=null_backend, null_trainer=null_trainer))


def arguments(name: str, tmp_path: Path, *more: str) -> list[str]:
    return ["train", name, "--model", "null", "--output-dir", str(tmp_path / "out"), *more]


@pytest.mark.usefixtures("null")
def test_the_checkpoint_is_the_only_output(
    lines: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Progress goes to standard error in lines, the last checkpoint to standard output."""
    assert cli.main(arguments("null", tmp_path, "--train-file", str(lines))) == 0
    printed = capsys.readouterr()
    assert printed.out == f"{tmp_path / 'out' / 'checkpoint-3'}\n"
    assert " 33%  step 1 of 3, loss 1" in printed.err
    assert "100%  step 3 of 3" in printed.err
    assert "\r" not in printed.err


@pytest.mark.usefixtures("null")
def test_options_come_as_flags_and_as_set(
    lines: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """--set reaches the trainer as text, which refuses what it does not know; a form error is named."""
    base = arguments("null", tmp_path, "--train-file", str(lines))
    assert cli.main([*base, "--set", "colour=red"]) == 2
    assert "option 'colour' is unknown" in capsys.readouterr().err
    assert cli.main([*base, "--set", "colour"]) == 2
    assert "--set 'colour': expected NAME=VALUE" in capsys.readouterr().err
    assert cli.main([*base, "--save-every", "1"]) == 0
    assert (tmp_path / "out" / "checkpoint-1").is_dir()


@pytest.mark.parametrize("command", ["train", "predict"])
@pytest.mark.parametrize("name", ["", "  ", "file", "dangling", "ring", "pipe", "nul\0", "long" * 500])
def test_what_is_no_output_directory_is_refused_before_a_model_is_opened(
    command: str,
    name: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Of an empty name, as of a variable that is not set, the folder one stands in would be filled."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").touch()
    (tmp_path / "dangling").symlink_to("nowhere")
    (tmp_path / "ring").symlink_to("ring")
    os.mkfifo(tmp_path / "pipe")
    there = sorted(tmp_path.iterdir())
    words = {"train": ["train", "ptuning"], "predict": ["predict"]}[command]
    assert cli.main([*words, "--model", "no/such/model", "--output-dir", name]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "--output-dir" in line
    assert sorted(tmp_path.iterdir()) == there


@pytest.mark.usefixtures("null")
def test_without_a_name_the_trainers_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    """``glm train`` alone lists them like ``glm run``; an option before the name is an error."""
    assert cli.main(["train"]) == 2
    assert "null  learns the longest word of a file" in capsys.readouterr().err
    assert cli.main(["train", "--help"]) == 0
    assert "installed trainers:" in capsys.readouterr().out
    assert cli.main(["train", "--output-dir", "x"]) == 2
    assert "name the trainer first: glm train TRAINER --output-dir" in capsys.readouterr().err


@pytest.mark.usefixtures("null")
def test_an_unknown_trainer_is_refused_with_those_there_are(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """One line, no traceback."""
    assert cli.main(arguments("lora", tmp_path)) == 2
    assert "trainer 'lora' is unknown; choose one of: null" in capsys.readouterr().err


def test_without_any_trainer_the_package_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """What to install is said."""
    use(monkeypatch, make_host(null=null_backend))
    assert cli.main(arguments("ptuning", tmp_path)) == 2
    assert "no installed plugin can train: pip install glm-ptuning" in capsys.readouterr().err


def test_a_model_that_the_trainer_declines_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """None is no iterator: another model is asked for."""
    use(monkeypatch, make_host(null=null_backend, own=trainer(lambda job: None)))
    assert cli.main(arguments("own", tmp_path)) == 2
    assert "trainer 'own' cannot train this model (null)" in capsys.readouterr().err


def test_a_terminal_gets_a_bar_and_messages_of_their_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The bar shows step, loss, metrics and the time left; a message stands on a line of its own."""

    def reports(job: TrainJob) -> Iterator[TrainProgress]:
        yield TrainProgress(0, 4, message="three rows")
        for step in range(1, 5):
            yield TrainProgress(step, 4, loss=2.0, metrics={"eval_loss": 1.5} if step == 4 else {})
        yield TrainProgress(4, 4, checkpoint=job.output_dir, finished=True)

    use(monkeypatch, make_host(null=null_backend, own=trainer(reports)))
    monkeypatch.setattr(_progress_bar, "SECONDS_BETWEEN_DRAWINGS", 0.0)
    screen = Screen()
    monkeypatch.setattr("sys.stderr", screen)
    assert cli.main(arguments("own", tmp_path)) == 0
    text = screen.getvalue()
    assert "glm: three rows\n" in text
    assert "[#######.......................]  25%  step 1 of 4, loss 2" in text
    assert "[##############################] 100%  step 4 of 4, loss 2, eval_loss 1.5\n" in text
    assert " left" in text
    assert capsys.readouterr().out == f"{tmp_path / 'out'}\n"


def test_an_interrupt_waits_for_the_step_and_closes_the_job(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Ctrl-C in a step lets it end, closes the trainer's iterator, says how to go on, and exits with 130."""
    did: list[str] = []

    def reports(job: TrainJob) -> Iterator[TrainProgress]:
        try:
            for step in range(1, 10):
                if step == 3:
                    os.kill(os.getpid(), signal.SIGINT)
                    did.append("went on in the step")
                yield TrainProgress(step, 9, loss=1.0)
        except GeneratorExit:
            did.append("closed")
            raise

    use(monkeypatch, make_host(null=null_backend, own=trainer(reports)))
    before = signal.getsignal(signal.SIGINT)
    assert cli.main(arguments("own", tmp_path)) == 130
    assert did == ["went on in the step", "closed"]
    said = capsys.readouterr().err
    assert "stopping after this step, its checkpoint is kept; Ctrl-C again stops at once" in said
    assert "stopped after step 3 of 9; the same command goes on from there" in said
    assert signal.getsignal(signal.SIGINT) is before


@pytest.mark.parametrize("step", [0, 3])
def test_an_interrupt_that_cannot_wait_stops_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: int
) -> None:
    """Before the first step, and at the second press, nothing is waited for."""
    after: list[str] = []

    def reports(job: TrainJob) -> Iterator[TrainProgress]:
        for done in range(1, step + 1):
            yield TrainProgress(done, 9, loss=1.0)
        os.kill(os.getpid(), signal.SIGINT)
        if step:
            os.kill(os.getpid(), signal.SIGINT)
        after.append("still there")
        yield TrainProgress(9, 9, finished=True)

    use(monkeypatch, make_host(null=null_backend, own=trainer(reports)))
    assert cli.main(arguments("own", tmp_path)) == 130
    assert after == []


def test_only_the_first_of_several_processes_speaks(
    lines: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Where a launcher says that this is process 1, it trains and prints nothing."""
    use(monkeypatch, make_host(null=null_backend, null_trainer=null_trainer))
    monkeypatch.setenv("RANK", "1")
    assert cli.main(arguments("null", tmp_path, "--train-file", str(lines))) == 0
    assert tuple(capsys.readouterr()) == ("", "")
    assert (tmp_path / "out" / "checkpoint-3").is_dir()


def test_help_imports_nothing_heavy() -> None:
    """Listing trainers and their options imports neither torch nor transformers."""
    code = (
        "import sys\nfrom glm_core import cli\ncli.main(['train', 'ptuning', '--help'])\n"
        "print([name for name in ('torch', 'transformers', 'numpy') if name in sys.modules])"
    )
    done = run_python("-c", code)
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith("[]\n"), done.stdout[-300:]
    assert "--pre-seq-len" in done.stdout
