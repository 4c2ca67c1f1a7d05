"""Checks of trainers: short jobs in temporary directories, with the options that their author gives."""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from glm_core.errors import ConfigError, GlmError
from glm_core.jobs import PredictJob, PredictProgress, TrainJob, TrainProgress
from glm_core.records import LoadedModel
from glm_core.routing import open_for_training

from ._answers import ask, close, expect_idle, make_question
from ._checkpoint_checks import expect_reports
from ._outcomes import BrokenError, NotApplicableError, expect
from ._promises import check

if TYPE_CHECKING:
    from .subject import Subject

_GARBAGE = b"\xff\xfe\x00 no data of any kind\n{{{"
_LOSS_TOLERANCE = 0.01  # sums of another order, on other threads
_UNKNOWN = "option_of_the_conformance_kit"


@check(
    "training-progress", "training reports steps that never fall and is finished once, at the end", "train"
)
def check_training_progress(subject: Subject) -> None:
    """Train with every described option at its default, unless the author gives another value."""
    with _make_folder() as folder, _start_training(subject, folder) as reports:
        done = list(reports)
        strange = [report for report in done if not isinstance(report, TrainProgress)]
        expect(not strange, f"train reports {strange[:1]!r}; expected TrainProgress records")
        expect_reports([(report.step, report.total_steps, report.finished) for report in done], "steps")


@check("training-output", "a finished job leaves a whole checkpoint in its directory", "train")
def check_training_output(subject: Subject) -> None:
    """Check that the last report names it, inside ``output_dir``, with nothing unfinished beside it."""
    with _make_folder() as folder, _start_training(subject, folder) as reports:
        last = list(reports)[-1]
        checkpoint = last.checkpoint
        if checkpoint is None:
            raise BrokenError("the last report names no checkpoint")
        expect(checkpoint.is_dir() and any(checkpoint.iterdir()), f"{checkpoint} is no directory with files")
        expect(folder in [checkpoint, *checkpoint.parents], f"{checkpoint} is not in the job's directory")
        empty = [path.name for path in folder.rglob("*") if path.is_dir() and not any(path.iterdir())]
        expect(not empty, f"it leaves empty directories: {', '.join(empty)}")


@check(
    "training-resumes", "a stopped job goes on where it stopped and ends like one that ran through", "train"
)
def check_training_resumes(subject: Subject) -> None:
    """Close after a third of the steps, then repeat with the same options."""
    with _make_folder() as folder, _start_training(subject, folder) as reports:
        through = list(reports)
        expected = _list_files(folder)
    with _make_folder() as folder:
        with _start_training(subject, folder) as reports:
            stopped = _read_steps(reports, max(1, through[-1].total_steps // 3))
            if stopped.finished:
                raise NotApplicableError("the job is over after its first report; give it more steps")
            close(reports)  # type: ignore[arg-type]
        with _start_training(subject, folder) as reports:
            rest = list(reports)
        expect(rest and rest[-1].finished, "the repeated job does not come to its end")
        steps = [report.step for report in rest if report.loss is not None]
        expect(
            not steps or steps[0] >= stopped.step,
            f"stopped after step {stopped.step} the repeated job trains again from step {steps and steps[0]}",
        )
        expect(
            (rest[-1].step, rest[-1].total_steps) == (through[-1].step, through[-1].total_steps),
            f"it ends at step {rest[-1].step} of {rest[-1].total_steps}; run through, at step "
            f"{through[-1].step} of {through[-1].total_steps}",
        )
        _expect_same_losses(through, rest)
        missing = sorted(expected - _list_files(folder))
        expect(not missing, f"the resumed job did not write {', '.join(missing)}")


def _expect_same_losses(through: list[TrainProgress], resumed: list[TrainProgress]) -> None:
    """Expect the losses of the job that ran through, step by step, where both report one."""
    losses = {report.step: report.loss for report in through if report.loss is not None}
    trained = [report for report in resumed if report.loss is not None]
    for report in trained[1:]:  # the first may be a mean over fewer steps
        expected = losses.get(report.step)
        if expected is not None and report.loss is not None:
            expect(
                abs(report.loss - expected) <= _LOSS_TOLERANCE * max(abs(expected), 1e-3),
                f"at step {report.step} the resumed job has a loss of {report.loss:g}, "
                f"the one that ran through {expected:g}: something was not restored",
            )


def _list_files(folder: Path) -> set[str]:
    """Return the names of files that stand directly in the directory of a job."""
    return {path.name for path in folder.iterdir() if path.is_file()}


def _read_steps(reports: Iterator[TrainProgress], steps: int) -> TrainProgress:
    last = None
    for last in reports:
        if last.step >= steps or last.finished:
            break
    if last is None:
        raise BrokenError("train reports nothing")
    return last


@check("training-options", "an unknown option is refused before anything is read", "train")
def check_training_options(subject: Subject) -> None:
    """Check that it is a ``ConfigError``, before the first report."""
    with _make_folder() as folder:
        _expect_config_error(subject, folder, {_UNKNOWN: "1"}, f"option {_UNKNOWN}")


@check("training-data", "data that cannot be used is refused before the first step", "train")
def check_training_data(subject: Subject) -> None:
    """Put a missing file, an empty one and one of garbage in the place of each file among the options."""
    files = _list_file_options(subject.train_options)
    with _make_folder() as folder:
        for name, broken in _write_broken_files(files, folder):
            _expect_config_error(subject, folder / "out", {name: broken}, f"{name} {Path(broken).name}")


def _expect_config_error(subject: Subject, folder: Path, changes: Mapping[str, Any], what: str) -> None:
    try:
        with _start_training(subject, folder, changes) as reports:
            first = next(reports, None)
            while first is not None and first.step == 0 and not first.finished:
                first = next(reports, None)
            close(reports)  # type: ignore[arg-type]
    except ConfigError:
        return
    except GlmError as error:
        raise BrokenError(f"{what} raises {type(error).__name__}: {error}; expected ConfigError") from error
    raise BrokenError(f"a job with {what} is begun: {first!r}")


@check("prediction-progress", "a prediction reports each row, its scores and its files", "predict")
def check_prediction_progress(subject: Subject) -> None:
    """Check that it finishes once, and the files of the last report exist and are not empty."""
    with _make_folder() as folder, _start_prediction(subject, folder) as reports:
        done = list(reports)
        strange = [report for report in done if not isinstance(report, PredictProgress)]
        expect(not strange, f"predict reports {strange[:1]!r}; expected PredictProgress records")
        expect_reports([(report.done, report.total, report.finished) for report in done], "rows")
        files = done[-1].files
        empty = [str(file) for file in files if not file.is_file() or not file.stat().st_size]
        expect(files and not empty, f"the last report names the files {files!r}; missing or empty: {empty}")


@check("prediction-closes", "a prediction that is given up leaves the model free", "predict")
def check_prediction_closes(subject: Subject) -> None:
    """Close after the first report; then nothing runs or waits, and the model answers."""
    with _make_folder() as folder, _start_prediction(subject, folder) as reports:
        next(reports, None)
        close(reports)  # type: ignore[arg-type]
        expect(next(reports, None) is None, "a closed prediction goes on")
        expect_idle(subject, subject.model)
        ask(subject, make_question())


@check(
    "prediction-options",
    "options and data that cannot be used are refused before anything is asked",
    "predict",
)
def check_prediction_options(subject: Subject) -> None:
    """Check that it is a ``ConfigError``, before the first report."""
    files = _list_file_options(subject.predict_options)
    with _make_folder() as folder:
        for name, value in [(_UNKNOWN, "1"), *_write_broken_files(files, folder)]:
            try:
                with _start_prediction(subject, folder / "out", {name: value}) as reports:
                    first = next(reports, None)
                    while first is not None and first.done == 0 and not first.finished:
                        first = next(reports, None)
                    close(reports)  # type: ignore[arg-type]
            except ConfigError:
                continue
            except GlmError as error:
                raise BrokenError(
                    f"option {name} {value} raises {type(error).__name__}: {error}; expected ConfigError"
                ) from error
            raise BrokenError(f"a prediction with option {name} {value} is begun: {first!r}")


def _list_file_options(options: Mapping[str, Any]) -> list[str]:
    return [name for name, value in options.items() if isinstance(value, str) and Path(value).is_file()]


def _write_broken_files(names: list[str], folder: Path) -> Iterator[tuple[str, str]]:
    """Yield each option that is a file, with one that is missing, empty, or holds garbage."""
    if not names:
        raise NotApplicableError(
            "no option that is given is a file; pass data with --glm-train or --glm-predict"
        )
    (folder / "empty").write_bytes(b"")
    (folder / "garbage").write_bytes(_GARBAGE)
    for name in names:
        for broken in ("missing", "empty", "garbage"):
            yield name, str(folder / broken)


@contextlib.contextmanager
def _make_folder() -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix="glm-conformance-")).resolve()
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def _start_training(
    subject: Subject, folder: Path, changes: Mapping[str, Any] | None = None
) -> Iterator[Iterator[TrainProgress]]:
    """Start a job on a model that is not placed, as ``glm train`` does."""
    options = {**subject.fill_trainer_options("options", subject.train_options), **(changes or {})}
    model, devices, dtype, scheme = open_for_training(
        subject.host, subject.make_settings(), notify=lambda _: None
    )
    names = tuple(device.name for device in devices)
    job = TrainJob(subject.trainer_info.name, folder, options, names, dtype, scheme)
    with contextlib.closing(model):
        yield _start_job(subject, "train", model, job)


@contextlib.contextmanager
def _start_prediction(
    subject: Subject, folder: Path, changes: Mapping[str, Any] | None = None
) -> Iterator[Iterator[PredictProgress]]:
    """Start a job on the shared model, as ``glm predict`` does."""
    options = {**subject.fill_trainer_options("predict_options", subject.predict_options), **(changes or {})}
    adapter = next(iter(subject.adapters), None)
    job = PredictJob(subject.trainer_info.name, folder, options, adapter)
    yield _start_job(subject, "predict", subject.model.loaded, job)


def _start_job(subject: Subject, hook: str, model: LoadedModel, job: TrainJob | PredictJob) -> Any:
    reports = subject.call(hook, model=model, job=job)
    if reports is None:
        raise NotApplicableError(f"it declines model {subject.model_name!r}; name another with --glm-model")
    expect(
        hasattr(reports, "__next__") and callable(getattr(reports, "close", None)),
        f"{hook} returned {reports!r}, which is no iterator with close()",
    )
    return reports
