"""The smallest complete trainer: it learns the words of a file, one line a step.

A job writes a checkpoint after every ``save_every`` lines, goes on from the newest one when it is
repeated, and ends with an adapter for the null model, which says the learned word before each answer.
A prediction asks the null model every line of a file.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from glm_core import hookimpl
from glm_core.errors import ConfigError
from glm_core.records import (
    ChatRequest,
    LoadedModel,
    Message,
    Option,
    PredictJob,
    PredictProgress,
    TrainerInfo,
    TrainJob,
    TrainProgress,
)

from .null_backend import NullModel, NullStream, make_deltas

GLM_API_VERSION = 2

TRAIN_OPTIONS = (
    Option("train_file", "text file to learn from, one line a step"),
    Option("save_every", "steps between two checkpoints", type=int, default=2),
)
PREDICT_OPTIONS = (Option("test_file", "text file with a question in each line"),)


@hookimpl
def describe_trainer() -> TrainerInfo:
    """Describe ``glm train null --train-file FILE``."""
    return TrainerInfo("null", "learns the longest word of a file", TRAIN_OPTIONS, PREDICT_OPTIONS)


@hookimpl
def train(model: LoadedModel, job: TrainJob) -> Iterator[TrainProgress] | None:
    """Check the job now, work as the iterator is read."""
    if not isinstance(model, NullModel):
        return None
    lines = _read_lines(_check_options(job.options, TRAIN_OPTIONS)["train_file"], "train_file")
    save_every = job.options.get("save_every", 2)
    if not isinstance(save_every, int) or save_every < 1:
        raise ConfigError(f"save_every must be a whole number from 1, got {save_every!r}")
    return _steps(job.output_dir, lines, save_every)


@hookimpl
def predict(model: LoadedModel, job: PredictJob) -> Iterator[PredictProgress] | None:
    """Check the job now, ask as the iterator is read."""
    if not isinstance(model, NullModel):
        return None
    questions = _read_lines(_check_options(job.options, PREDICT_OPTIONS)["test_file"], "test_file")
    return _answers(model, job, questions)


def _steps(folder: Path, lines: list[str], save_every: int) -> Iterator[TrainProgress]:
    step, word = _find_newest(folder)
    checkpoint = _locate_checkpoint(folder, step) if step else None
    try:
        while step < len(lines):
            word = max([word, *lines[step].split()], key=len)
            step += 1
            if step % save_every == 0:
                checkpoint = _save(folder, step, word)
            yield TrainProgress(step, len(lines), loss=1 / step, learning_rate=0.1, checkpoint=checkpoint)
        checkpoint = _save(folder, step, word)
        folder.joinpath("adapter.txt").write_text(word, "utf-8")
        yield TrainProgress(step, len(lines), loss=1 / step, checkpoint=checkpoint, finished=True)
    finally:  # reached at the end and when the caller stops early
        if step:
            _save(folder, step, word)


def _find_newest(folder: Path) -> tuple[int, str]:
    """Return step and word of the newest checkpoint; 0 and nothing if there is none."""
    steps = [int(path.name.partition("-")[2]) for path in folder.glob("checkpoint-*") if path.is_dir()]
    if not steps:
        return 0, ""
    state = json.loads((_locate_checkpoint(folder, max(steps)) / "state.json").read_text("utf-8"))
    return max(steps), state["word"]


def _locate_checkpoint(folder: Path, step: int) -> Path:
    return folder / f"checkpoint-{step}"


def _save(folder: Path, step: int, word: str) -> Path:
    """Write a checkpoint beside its place and move it there whole."""
    final, unfinished = _locate_checkpoint(folder, step), folder / f"unfinished-{step}"
    if not final.exists():
        unfinished.mkdir(parents=True, exist_ok=True)
        (unfinished / "state.json").write_text(json.dumps({"word": word}), "utf-8")
        os.replace(unfinished, final)
    return final


def _answers(model: NullModel, job: PredictJob, questions: list[str]) -> Iterator[PredictProgress]:
    job.output_dir.mkdir(parents=True, exist_ok=True)
    file = job.output_dir / "answers.jsonl"
    words = 0
    with file.open("w", encoding="utf-8") as output:
        for number, question in enumerate(questions, 1):
            request = ChatRequest((Message("user", question),), adapter=job.adapter)
            text = "".join(delta.text for delta in NullStream(model, make_deltas(model, request)))
            output.write(json.dumps({"question": question, "answer": text}) + "\n")
            words += len(text.split())
            yield PredictProgress(number, len(questions))
    scores = {"words": words / len(questions)}
    yield PredictProgress(len(questions), len(questions), metrics=scores, files=(file,), finished=True)


def _check_options(options: Mapping[str, Any], known: tuple[Option, ...]) -> Mapping[str, Any]:
    names = [option.name for option in known]
    for name in options:
        if name not in names:
            raise ConfigError(f"option {name!r} is unknown; known are {', '.join(names)}")
    return {**dict.fromkeys(names), **options}


def _read_lines(path: str | None, option: str) -> list[str]:
    """Return the lines of a text file.

    Raises:
        ConfigError: it is not given, cannot be read, or is empty.
    """
    if not path:
        raise ConfigError(f"--{option.replace('_', '-')} is missing; pass a text file")
    try:
        lines = Path(path).read_text("utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} cannot be read: {error}") from error
    if not any(line.strip() for line in lines):
        raise ConfigError(f"{path} has no lines to learn from")
    return [line for line in lines if line.strip()]
