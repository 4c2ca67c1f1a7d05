"""Trainers that break one promise each; see `broken_plugins`."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from broken_plugins import breaks, subject_of
from glm_testing import make_plugin, null_trainer
from glm_testing.conformance import Subject
from glm_testing.null_backend import NullModel

from glm_core import hookimpl
from glm_core.errors import ConfigError
from glm_core.records import PredictJob, PredictProgress, TrainJob, TrainProgress

LINES = "one two three\nfour\nfive six\nseven\neight\nnine ten\n"


def trainer(folder: Path, **members: Any) -> Subject:
    """The null trainer with some of its members replaced, and data for it."""
    data = folder / "lines.txt"
    data.write_text(LINES)
    hooks = {name: getattr(null_trainer, name) for name in ("describe_trainer", "train", "predict")}
    options = {"train_options": {"train_file": str(data)}, "predict_options": {"test_file": str(data)}}
    return subject_of(make_plugin(**hooks | members), **options)


def training(
    folder: Path, change: Callable[[Iterator[TrainProgress], TrainJob], Iterator[TrainProgress]]
) -> Subject:
    """A trainer whose reports are changed."""

    @hookimpl
    def train(model: Any, job: TrainJob) -> Any:
        reports = null_trainer.train(model, job)
        return None if reports is None else change(reports, job)

    return trainer(folder, train=train)


@breaks("training-progress")
def ends_twice(folder: Path) -> Subject:
    """Says twice that it is finished."""

    def change(reports: Iterator[TrainProgress], job: TrainJob) -> Iterator[TrainProgress]:
        for report in reports:
            yield report
            if report.finished:
                yield report

    return training(folder, change)


@breaks("training-output")
def no_checkpoint(folder: Path) -> Subject:
    """Does not say where the result is."""

    def change(reports: Iterator[TrainProgress], job: TrainJob) -> Iterator[TrainProgress]:
        for report in reports:
            yield replace(report, checkpoint=None)

    return training(folder, change)


@breaks("training-resumes")
def begins_again(folder: Path) -> Subject:
    """Throws away what an earlier run left."""

    @hookimpl
    def train(model: Any, job: TrainJob) -> Any:
        shutil.rmtree(job.output_dir, ignore_errors=True)
        return null_trainer.train(model, job)

    return trainer(folder, train=train)


@breaks("training-resumes")
def restores_nothing(folder: Path) -> Subject:
    """Goes on at the right step with another state."""

    def change(reports: Iterator[TrainProgress], job: TrainJob) -> Iterator[TrainProgress]:
        resumed = any(job.output_dir.glob("checkpoint-*"))
        for report in reports:
            yield replace(report, loss=(report.loss or 0.0) + resumed)

    return training(folder, change)


@breaks("training-options")
def ignores_unknown_options(folder: Path) -> Subject:
    """Looks only at the options that it knows."""

    @hookimpl
    def train(model: Any, job: TrainJob) -> Any:
        known = {option.name for option in null_trainer.TRAIN_OPTIONS}
        options = {name: value for name, value in job.options.items() if name in known}
        return null_trainer.train(model, replace(job, options=options))

    return trainer(folder, train=train)


@breaks("training-data")
def fails_on_bad_data(folder: Path) -> Subject:
    """Lets the file's own error through."""

    @hookimpl
    def train(model: Any, job: TrainJob) -> Any:
        try:
            return null_trainer.train(model, job)
        except ConfigError as error:
            if error.__cause__ is not None:
                raise error.__cause__ from None
            raise

    return trainer(folder, train=train)


def predicting(
    folder: Path, change: Callable[[Iterator[PredictProgress], PredictJob], Iterator[PredictProgress]]
) -> Subject:
    """A trainer whose reports of predictions are changed."""

    @hookimpl
    def predict(model: Any, job: PredictJob) -> Any:
        reports = null_trainer.predict(model, job)
        return None if reports is None else change(reports, job)

    return trainer(folder, predict=predict)


@breaks("prediction-progress")
def names_no_files(folder: Path) -> Subject:
    """Does not say where the answers are."""

    def change(reports: Iterator[PredictProgress], job: PredictJob) -> Iterator[PredictProgress]:
        for report in reports:
            yield replace(report, files=())

    return predicting(folder, change)


class Unstoppable(Iterator[PredictProgress]):
    """Goes on when it was closed."""

    def __init__(self, reports: Iterator[PredictProgress]) -> None:
        self._reports = reports

    def __next__(self) -> PredictProgress:
        return next(self._reports)

    def close(self) -> None:
        """Do nothing."""


@breaks("prediction-closes")
def cannot_be_stopped(folder: Path) -> Subject:
    """Asks on when nobody wants to know."""
    return predicting(folder, lambda reports, job: Unstoppable(reports))


@breaks("prediction-options")
def ignores_unknown_prediction_options(folder: Path) -> Subject:
    """Looks only at the options that it knows."""

    @hookimpl
    def predict(model: Any, job: PredictJob) -> Any:
        if not isinstance(model, NullModel):
            return None
        return null_trainer.predict(model, replace(job, options={"test_file": job.options.get("test_file")}))

    return trainer(folder, predict=predict)
