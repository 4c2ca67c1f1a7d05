"""``glm predict`` as a user meets it: what it prints, what it refuses, what it leaves behind."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fake_plugins import FakeModel, backend, plugin, run_glm, runtime
from glm_jobs import _progress_bar, predict
from glm_testing import make_host

from glm_core import AdapterError, ConfigError, cli
from glm_core.plugins import PluginHost
from glm_core.records import DeviceInfo, Option, PredictJob, PredictProgress, TrainerInfo

INFO = TrainerInfo(
    "poems", "for tests", predict_options=(Option("test_file", "rows"), Option("rows", "how many", int))
)


class Recorder:
    """A trainer that keeps its jobs and reports three rows."""

    def __init__(self) -> None:
        self.jobs: list[PredictJob] = []
        self.model = FakeModel(("ads",))

    def predict(self, model: Any, job: PredictJob) -> Iterator[PredictProgress]:
        """Keep the job now, report later."""
        assert model is self.model
        self.jobs.append(job)
        return self.reports(job)

    def reports(self, job: PredictJob) -> Iterator[PredictProgress]:
        """Three rows and the scores."""
        for done in range(3):
            yield PredictProgress(done, 3)
        scores = {"rouge-l": 12.34567, "bleu-4": 3.0}
        yield PredictProgress(3, 3, metrics=scores, files=(job.output_dir / "x.txt",), finished=True)


@pytest.fixture
def recorder() -> Recorder:
    """See `Recorder`."""
    return Recorder()


def host(recorder: Recorder, **others: Any) -> PluginHost:
    trainer = plugin(describe_trainer=lambda: INFO, predict=lambda model, job: recorder.predict(model, job))
    return make_host(
        runtime=runtime(recorder.model),
        backend=backend(DeviceInfo("cpu", "cpu", "CPU")),
        poems=trainer,
        **others,
    )


def command(host: PluginHost, monkeypatch: pytest.MonkeyPatch, folder: Path, *arguments: str) -> int:
    """Run the command on a model directory that the fake runtime takes, with these plugins."""
    (folder / "model").mkdir(exist_ok=True)
    (folder / "model" / "config.json").write_text("{}")
    monkeypatch.setattr(predict, "get_default_host", lambda: host)
    model = ("--model", str(folder / "model"), "--output-dir", str(folder / "out"))
    return cli.main(["predict", *model, *arguments])


def test_scores_are_a_table_and_files_are_named(
    recorder: Recorder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Standard output has the scores alone; progress and files are on standard error; the model is closed."""
    assert command(host(recorder), monkeypatch, tmp_path, "--test-file", "x.json", "--rows", "3") == 0
    printed = capsys.readouterr()
    assert printed.out.splitlines() == ["score    value", "bleu-4   3.0000", "rouge-l  12.3457"]
    lines = printed.err.splitlines()
    assert lines[-2:] == ["100%  3 of 3 rows", f"glm: written: {tmp_path / 'out' / 'x.txt'}"]
    assert "\r" not in printed.err
    assert recorder.jobs == [PredictJob("poems", tmp_path / "out", {"test_file": "x.json", "rows": 3})]
    assert recorder.model.closed == 1


def test_further_options_and_the_adapter_are_passed_on(
    recorder: Recorder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """``--set`` gives text by name, and the one adapter that is loaded is the one that is asked."""
    (tmp_path / "ads").mkdir()
    more = ("--set", "max_source_length=64", "--set", "note=a=b", "--adapter", str(tmp_path / "ads"))
    assert command(host(recorder), monkeypatch, tmp_path, *more) == 0
    assert recorder.jobs[0].options == {"max_source_length": "64", "note": "a=b"}
    assert recorder.jobs[0].adapter == "ads"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--adapter", "a=x", "--adapter", "b=y"), "one adapter is asked at a time, 2 are given: a, b; run"),
        (("--set", "rows"), "--set 'rows': expected NAME=VALUE"),
        (("--set", "=3"), "--set '=3': expected NAME=VALUE"),
        (("--trainer", "other"), "trainer 'other' is unknown or cannot predict; choose one of: poems"),
    ],
)
def test_what_cannot_be_meant_is_refused_before_a_model_is_opened(
    recorder: Recorder,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: tuple[str, ...],
    message: str,
) -> None:
    """One sentence, exit status 2, nothing loaded."""
    assert command(host(recorder), monkeypatch, tmp_path, *arguments) == 2
    assert f"glm: {message}" in capsys.readouterr().err
    assert (recorder.jobs, recorder.model.closed) == ([], 0)


def test_an_output_directory_that_is_a_file_is_refused(
    recorder: Recorder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Before a model is opened."""
    (tmp_path / "out").write_text("")
    assert command(host(recorder), monkeypatch, tmp_path) == 2
    assert "out is a file; choose a directory" in capsys.readouterr().err


def test_one_of_several_trainers_is_named(
    recorder: Recorder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """With two that can predict the user chooses; one that can only train does not count."""
    trains = plugin(describe_trainer=lambda: TrainerInfo("trains", "x"))
    assert command(host(recorder, trains=trains), monkeypatch, tmp_path) == 0
    other = plugin(describe_trainer=lambda: TrainerInfo("other", "x"), predict=lambda model, job: None)
    both = host(recorder, other=other)
    assert command(both, monkeypatch, tmp_path) == 2
    assert "several trainers can predict; choose one with --trainer: other, poems" in capsys.readouterr().err
    assert command(both, monkeypatch, tmp_path, "--trainer", "poems") == 0
    assert command(both, monkeypatch, tmp_path, "--trainer=other") == 2
    assert "trainer 'other' cannot ask this model (fake); choose another" in capsys.readouterr().err


def test_without_a_trainer_the_package_is_named(
    recorder: Recorder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """What to install is said."""
    assert command(make_host(runtime=runtime(recorder.model)), monkeypatch, tmp_path) == 2
    assert "no installed plugin can predict: pip install glm-ptuning" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (ConfigError("rows is wrong"), "glm: rows is wrong"),
        (AdapterError("no such"), "glm: no such"),
        (ZeroDivisionError("x"), "glm: plugin 'poems' failed in predict: ZeroDivisionError: x"),
    ],
)
def test_an_error_midway_is_one_line_and_closes_the_model(
    recorder: Recorder,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    error: Exception,
    message: str,
) -> None:
    """Whatever a trainer raises between two rows, no scores are printed."""

    def reports(job: PredictJob) -> Iterator[PredictProgress]:
        yield PredictProgress(1, 2)
        raise error

    monkeypatch.setattr(recorder, "reports", reports)
    assert command(host(recorder), monkeypatch, tmp_path) == 2
    printed = capsys.readouterr()
    assert message in printed.err
    assert printed.out == ""
    assert recorder.model.closed == 1


def test_an_interrupt_says_how_to_go_on(
    recorder: Recorder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Ctrl-C ends with 130 and closes what runs."""
    closed: list[bool] = []

    def reports(job: PredictJob) -> Iterator[PredictProgress]:
        try:
            yield PredictProgress(1, 2)
            raise KeyboardInterrupt
        finally:
            closed.append(True)

    monkeypatch.setattr(recorder, "reports", reports)
    assert command(host(recorder), monkeypatch, tmp_path) == 130
    assert (
        "glm: stopped; the same command goes on after the rows that are answered" in capsys.readouterr().err
    )
    assert (closed, recorder.model.closed) == ([True], 1)


def test_a_terminal_gets_a_bar_with_the_time_left(
    recorder: Recorder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One line that is drawn over; messages stand on lines of their own."""

    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    def reports(job: PredictJob) -> Iterator[PredictProgress]:
        yield PredictProgress(0, 4, message="going on")
        for done in (1, 2, 3):
            yield PredictProgress(done, 4)
        yield PredictProgress(4, 4, finished=True)

    terminal = Terminal()
    monkeypatch.setattr("sys.stderr", terminal)
    monkeypatch.setattr(recorder, "reports", reports)
    monkeypatch.setattr(_progress_bar, "SECONDS_BETWEEN_DRAWINGS", 0)
    assert command(host(recorder), monkeypatch, tmp_path) == 0
    drawn = terminal.getvalue().split("\r\x1b[K")
    assert any("glm: going on\n" in part for part in drawn)
    bars = [part for part in drawn if part.startswith("[")]
    assert bars[-1] == f"[{'#' * 30}] 100%  4 of 4 rows\n"
    assert any(" left" in bar for bar in bars[1:-1])


def test_the_real_trainer_answers_a_file(tmp_path: Path) -> None:
    """In a process of its own on the bundled model: files, scores, and quick help."""
    rows = [{"q": "怎么安装？", "a": "pip install"}, {"q": "你好", "a": "你好"}]
    (tmp_path / "rows.json").write_text("\n".join(json.dumps(row) for row in rows))
    arguments = ("--test-file", str(tmp_path / "rows.json"), "--prompt-column", "q", "--response-column", "a")
    done = run_glm("predict", *arguments, "--output-dir", str(tmp_path / "out"), "--device", "cpu")
    assert done.returncode == 0, done.stderr
    assert [line.split()[0] for line in done.stdout.splitlines()] == [
        *("score", "bleu-4", "rouge-1", "rouge-2", "rouge-l")
    ]
    lines = (tmp_path / "out" / "generated_predictions.txt").read_text("utf-8").splitlines()
    assert [json.loads(line)["labels"] for line in lines] == ["pip install", "你好"]
    assert all(json.loads(line)["predict"] for line in lines)
