"""``--dry-run``: what a job would do, shown and tried without changing anything."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from typing import Any

import torch
from glm_jobs.bench.memory import read_peak_memory

from glm_core.cleaning import clean_text
from glm_core.errors import ConfigError

from ._loop import TrainingLoop, TrainingTask
from ._settings import TrainingSettings

SHOWN_CHARACTERS = 400  # of the prompt and of the answer of a row


def describe_first_batch(task: TrainingTask, tokenizer: Any) -> Iterator[str]:
    """Yield a line for each row of the first micro batch: what is only read, and what is learnt.

    Args:
        task: of the job.
        tokenizer: of the model; both a ``ChatTokenizer`` and a ``TrainingTokenizer``.
    """
    for row in task.order.get_rows(0):
        example = task.examples[row]
        read, learnt = example.token_ids[: example.first_target], example.token_ids[example.first_target :]
        texts = [_shorten(tokenizer.decode(token_ids)) for token_ids in (read, learnt)]
        yield (
            f"first batch, row {row + 1}: {len(read)} tokens are read: {texts[0]} | {len(learnt)} tokens are "
            f"learnt: {texts[1]}"
        )


def try_longest_batch(loop: TrainingLoop, device: torch.device) -> str:
    """Compute the gradients of the longest micro batch and drop them; say what that took.

    Raises:
        GlmError: it cannot be computed.
    """
    loss, tokens = loop.rehearse()
    # Memory that the model took while it was loaded is part of it.
    peak = torch.cuda.max_memory_allocated(device) if device.type == "cuda" else read_peak_memory()
    took = "" if peak is None else f", at most {peak / 2**30:.1f} GiB of memory at a time"
    return f"the longest batch ({tokens} tokens) has the loss {loss:.4g}{took}"


def check_disk(task: TrainingTask, settings: TrainingSettings) -> str:
    """Say how much room the checkpoints take and how much there is.

    Raises:
        ConfigError: there is too little, or the directory cannot be written.
    """
    place = task.output_dir
    while not place.exists():
        place = place.parent
    if not place.is_dir() or not os.access(place, os.W_OK):
        raise ConfigError(f"output_dir {task.output_dir} cannot be written; choose another directory")
    needed, count = _count_bytes(task, settings)
    free = shutil.disk_usage(place).free
    line = f"{count} checkpoints take about {needed / 2**20:,.0f} MiB; {free / 2**20:,.0f} MiB are free there"
    if needed > free:
        raise ConfigError(
            f"{task.output_dir}: {line}; keep fewer with save_total_limit, or choose another output_dir"
        )
    return line


def _count_bytes(task: TrainingTask, settings: TrainingSettings) -> tuple[int, int]:
    """Return the bytes of all checkpoints that are there at one time, and how many those are."""
    # The weights and the two averages of Adam's kind, in float32; others keep less.
    each = 3 * 4 * sum(value.numel() for _, value in task.trainable.list_parameters())
    every = settings.count_steps("save_steps", task.total_steps)
    per_epoch = max(task.order.per_epoch // task.micro_batches_per_step, 1)
    written = {
        "steps": -(-task.total_steps // every),
        "epoch": -(-task.total_steps // per_epoch),
        "no": 1,
    }[settings.save_strategy]
    # One more than the limit, since an old one is deleted after a new one is written.
    count = written if settings.save_total_limit is None else min(written, settings.save_total_limit + 1)
    return each * count, count


def _shorten(text: str) -> str:
    line = " ".join(clean_text(text).split())
    return line if len(line) <= SHOWN_CHARACTERS else f"{line[:SHOWN_CHARACTERS]}..."
