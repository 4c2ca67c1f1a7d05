"""Records of long jobs: quantising a checkpoint, training, prediction; frozen, and no torch types.

Offered by `glm_core.records` too, which is where plugins import them from.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from .errors import ConfigError
from .isolation import format_value


@dataclass(frozen=True)
class QuantizationScheme:
    """How weights are stored; symmetric, weight-only.

    Its text form is what ``--quantize`` takes and backends list: ``int8``, ``int4``, ``int4-g128``.

    Attributes:
        bits: 8 or 4.
        group_size: input features that share a scale; 0 = one scale per output row.
    """

    bits: int
    group_size: int = 0

    def __str__(self) -> str:
        return f"int{self.bits}" + (f"-g{self.group_size}" if self.group_size else "")

    @classmethod
    def parse(cls, text: str) -> QuantizationScheme:
        """Return the scheme of a text form.

        Raises:
            ConfigError: it is not of that form.
        """
        match = re.fullmatch(r"int(\d{1,2})(?:-g(\d{1,6}))?", text)
        if match is None:
            expected = "none, int8, int4, or int4-g128 and the like"
            raise ConfigError(f"quantize {format_value(text)} is unknown; expected {expected}")
        return cls(int(match[1]), int(match[2] or 0))


@dataclass(frozen=True)
class QuantizeJob:
    """A checkpoint to write.

    Attributes:
        destination: directory to write; an unfinished job found there is resumed.
        scheme: bits and group size.
        method: ``"rtn"`` rounds to nearest; ``"gptq"`` lets later columns make up for earlier errors.
        calibration: text file that ``"gptq"`` feeds to the model, one passage a line.
        embeddings: also quantise the embedding table and the head that shares it.
    """

    destination: Path
    scheme: QuantizationScheme
    method: Literal["rtn", "gptq"] = "rtn"
    calibration: Path | None = None
    embeddings: bool = False


@dataclass(frozen=True)
class QuantizeProgress:
    """One report of a running `QuantizeJob`; the last one has ``finished`` set.

    Attributes:
        done: bytes of the source that are finished.
        total: bytes of the source.
        tensor: name of the tensor that was finished last.
        message: something worth telling a person, or empty.
        finished: whether the checkpoint is complete.
    """

    done: int
    total: int
    tensor: str = ""
    message: str = ""
    finished: bool = False


@dataclass(frozen=True)
class TrainJob:
    """A training job.

    Attributes:
        trainer: name of the trainer that shall run it.
        output_dir: where checkpoints and logs go; a job found there is resumed.
        options: the trainer's options by name; further ones, given as ``--set NAME=VALUE``, are text.
        devices: where to train, in order.
        dtype: of the frozen weights.
        scheme: how the frozen weights are quantised; ``None`` = not.
    """

    trainer: str
    output_dir: Path
    options: Mapping[str, Any] = field(default_factory=dict)
    devices: tuple[str, ...] = ("cpu",)
    dtype: str = "float32"
    scheme: QuantizationScheme | None = None


@dataclass(frozen=True)
class TrainProgress:
    """One report of a running job; the last one has ``finished`` set.

    Attributes:
        step: optimiser steps done.
        total_steps: steps of the whole job.
        loss: mean loss since the last report.
        learning_rate: now.
        message: something worth telling a person, or empty.
        checkpoint: directory of the newest complete checkpoint.
        metrics: scores by name.
        finished: whether the job is done.
    """

    step: int
    total_steps: int
    loss: float | None = None
    learning_rate: float | None = None
    message: str = ""
    checkpoint: Path | None = None
    metrics: Mapping[str, float] = field(default_factory=dict)
    finished: bool = False


@dataclass(frozen=True)
class PredictJob:
    """A prediction job: answer every row of a file and score the answers.

    Attributes:
        trainer: name of the trainer that shall run it.
        output_dir: where answers and scores go.
        options: the trainer's options of ``glm predict`` by name; further ones are text.
        adapter: name of a loaded adapter; ``None`` = the base model.
    """

    trainer: str
    output_dir: Path
    options: Mapping[str, Any] = field(default_factory=dict)
    adapter: str | None = None


@dataclass(frozen=True)
class PredictProgress:
    """One report of a running `PredictJob`; the last one has ``finished`` set.

    Attributes:
        done: rows that are answered.
        total: rows of the file.
        message: something worth telling a person, or empty.
        metrics: scores by name; complete in the last report.
        files: what was written, in the last report.
        finished: whether the job is done.
    """

    done: int
    total: int
    message: str = ""
    metrics: Mapping[str, float] = field(default_factory=dict)
    files: tuple[Path, ...] = ()
    finished: bool = False
