"""The options of ``glm predict`` for this trainer; imports no torch, because ``--help`` reads them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from glm_core.config import expand
from glm_core.errors import ConfigError
from glm_core.records import Option, Sampling

from ._keywords import FOR_PREDICT, OF_PREDICT
from ._settings import FALSE, TRUE, TrainingSettings, parse_settings, refuse_names

PREDICT_OPTIONS = (
    Option("test_file", "rows to answer: JSON, JSON Lines or CSV"),
    Option("prompt_column", "column of the question"),
    Option("response_column", "column of the expected answer"),
    Option("history_column", "column of earlier questions and answers"),
    Option("max_source_length", "tokens of the question at most; more are cut off (1024)", int),
    Option("max_target_length", "tokens of the answer, as far as the question leaves room (128)", int),
    Option("max_predict_samples", "answer only that many rows", int),
    Option("source_prefix", "text before every question"),
    Option(
        "reference", "score against the expected answer cut to max_target_length (cut) or all of it (full)"
    ),
    Option("sample", "sample as the original did, top-p 0.7 and temperature 0.95, instead of greedy", bool),
    Option("seed", "makes sampling repeatable", int),
    Option("retention", "also compare base and tuned model on questions outside the task", bool),
    Option("retention_file", "these questions, one a line, instead of the built-in ones"),
)

# What the original's evaluation sampled with.
ORIGINAL_SAMPLING = {"do_sample": True, "top_p": 0.7, "temperature": 0.95}


@dataclass(frozen=True)
class PredictSettings:
    """The options of one prediction, checked.

    Attributes:
        test_file: rows to answer.
        job: the settings that training has too.
        sample: sample instead of taking the most likely token.
        seed: of the first row; each further one takes the next. ``None`` = a fresh one.
        retention: compare with the base model.
        retention_file: its questions; ``None`` = the built-in ones.
    """

    test_file: Path
    job: TrainingSettings
    sample: bool
    seed: int | None
    retention: bool
    retention_file: Path | None

    @property
    def max_length(self) -> int:
        """Return the tokens of question and answer together at most, as the original counts them."""
        return self.job.max_source_length + self.job.max_target_length + 1

    @property
    def sampling(self) -> Sampling:
        """Return how every row is answered."""
        how: Mapping[str, Any] = ORIGINAL_SAMPLING if self.sample else {"do_sample": False}
        return Sampling(max_length=self.max_length, **how)


def parse_predict_settings(options: Mapping[str, Any]) -> PredictSettings:
    """Return settings from the options of a job.

    Raises:
        ConfigError: one is unknown, missing, or has a value that cannot be used.
    """
    rest = {name: value for name, value in options.items() if value is not None}
    sample = _parse_boolean("sample", rest.pop("sample", False))
    retention = _parse_boolean("retention", rest.pop("retention", False))
    retention_file = rest.pop("retention_file", None)
    refuse_names(rest, OF_PREDICT, "do_predict")
    unused = {field.name for field in fields(TrainingSettings)} - FOR_PREDICT
    job = parse_settings(rest, unused=unused if sample else {*unused, "seed"})
    if not job.test_file:
        raise ConfigError("test_file is missing: name the file whose rows shall be answered")
    if job.num_beams not in (None, 1) or job.generation_num_beams not in (None, 1):
        raise ConfigError(
            f"num_beams {job.num_beams or job.generation_num_beams} cannot be used: rows are answered "
            "greedily or sampled; leave it out"
        )
    return PredictSettings(
        test_file=expand(job.test_file),
        job=job,
        sample=sample,
        seed=job.seed if "seed" in rest else None,
        retention=retention or retention_file is not None,
        retention_file=None if retention_file is None else expand(retention_file),
    )


def _parse_boolean(name: str, value: Any) -> bool:
    text = str(value).strip().lower()
    if text not in (*TRUE, *FALSE):
        raise ConfigError(f"{name} must be true or false, got {value!r}")
    return text in TRUE
