"""Small training jobs: rows, a tiny model, and one call that runs them."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

from glm_ptuning._train import start

from glm_core.config import load_settings
from glm_core.plugins import get_default_host
from glm_core.records import TrainJob, TrainProgress
from glm_core.routing import open_for_training

WORDS = ("你好", "世界", "hello", "how do I quantise a model", "晚上睡不着应该怎么办")


def write_rows(path: Path, count: int = 20, *, seed: int = 0) -> Path:
    """Rows with the columns ``content`` and ``summary``."""
    rows = [
        {"content": f"{WORDS[(row + seed) % 5]}", "summary": WORDS[(row * 2 + seed + 1) % 5]}
        for row in range(count)
    ]
    path.write_text("\n".join(json.dumps(row, ensure_ascii=False) for row in rows), "utf-8")
    return path


def options(train_file: Path, **more: Any) -> dict[str, Any]:
    """Options of a job of twelve steps over a prefix of four positions."""
    return {
        "train_file": str(train_file),
        "prompt_column": "content",
        "response_column": "summary",
        "max_source_length": 32,
        "max_target_length": 32,
        "pre_seq_len": 4,
        "max_steps": 12,
        "save_steps": 5,
        "logging_steps": 2,
        "per_device_train_batch_size": 2,
        "gradient_accumulation_steps": 2,
        "learning_rate": 0.05,
        "report_to": "none",
        **more,
    }


def reports(
    model: Path | str,
    output_dir: Path,
    job_options: dict[str, Any],
    *,
    dtype: str = "float32",
    quantize: str = "none",
) -> Iterator[TrainProgress]:
    """The reports of a job on the CPU; the model is closed when they end."""
    settings = load_settings({"model": str(model), "device": "cpu", "dtype": dtype, "quantize": quantize})
    loaded, devices, resolved, scheme = open_for_training(get_default_host(), settings)
    names = tuple(device.name for device in devices)
    with closing(loaded):
        found = start(loaded, TrainJob("ptuning", output_dir, job_options, names, resolved, scheme))
        assert found is not None
        yield from found


def train(
    model: Path | str, output_dir: Path, job_options: dict[str, Any], **more: Any
) -> list[TrainProgress]:
    """All reports of a job."""
    return list(reports(model, output_dir, job_options, **more))


def losses(progress: Sequence[TrainProgress]) -> list[float]:
    """The loss of every step."""
    return [report.loss for report in progress if report.loss is not None]


def trained_files(output_dir: Path, step: int = 12) -> dict[str, bytes]:
    """What two equal jobs leave behind, byte for byte."""
    folder = output_dir / f"checkpoint-{step}"
    names = ("model.safetensors", "glm_adapter.json", "optimizer.safetensors", "training_state.json")
    found = {name: (folder / name).read_bytes() for name in names}
    return {**found, "trainer_state.json": (output_dir / "trainer_state.json").read_bytes()}
