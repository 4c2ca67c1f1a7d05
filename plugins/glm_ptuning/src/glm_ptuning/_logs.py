"""What a job leaves for people: ``trainer_state.json``, TensorBoard's log and a picture of the loss."""

from __future__ import annotations

import io
import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from glm_runtime_torch.training import write_text

from ._checkpoints import TRAINER_STATE_FILE, format_json
from ._settings import TrainingSettings, list_settings
from ._trackers import TENSORBOARD, ServiceLog

PLOT_FILE = "loss.png"
SMOOTHED_OVER = 10  # entries; enough to see the trend of a loss that jumps with its rows

_log = logging.getLogger("glm")


class NumbersLog(Protocol):
    """Takes the numbers of a training as they come."""

    def add(self, step: int, values: Mapping[str, float]) -> None:
        """Add numbers of a step, by name; the names of an evaluation begin with ``eval_``."""

    def close(self) -> None:
        """Finish the log."""


class TensorBoardLog:
    """TensorBoard's event files.

    Args:
        directory: where they go.
        step: steps done; what an earlier run wrote after it is forgotten.
    """

    def __init__(self, directory: Path, step: int) -> None:
        from torch.utils.tensorboard import SummaryWriter  # slow to import

        # purge_step: what an interrupted run wrote after its last checkpoint is computed again
        self._writer: Any = SummaryWriter(str(directory), purge_step=step + 1 if step else None)

    def add(self, step: int, values: Mapping[str, float]) -> None:
        """Add numbers of a step, by name; the names of an evaluation begin with ``eval_``."""
        if self._writer is None:
            return
        try:
            for name, value in values.items():
                kind = "eval" if name.startswith("eval_") else "train"
                self._writer.add_scalar(f"{kind}/{name.removeprefix('eval_')}", value, step)
        except OSError as error:
            self._give_up(error)

    def close(self) -> None:
        """Write what is still in memory."""
        if self._writer is None:
            return
        try:
            self._writer.close()
        except OSError as error:
            self._give_up(error)
        self._writer = None

    def _give_up(self, error: OSError) -> None:
        _log.warning("TensorBoard's log cannot be written: %s", error.strerror or error)
        self._writer = None


def open_logs(settings: TrainingSettings, output_dir: Path, step: int) -> list[NumbersLog]:
    """Open a log for each name of ``report_to``.

    Raises:
        ConfigError: a service cannot be used.
    """
    logs: list[NumbersLog] = []
    for name in settings.report_to:
        if name == TENSORBOARD:
            logs.append(TensorBoardLog(Path(settings.logging_dir or output_dir / "runs"), step))
        else:
            logs.append(ServiceLog(name, settings.run_name or output_dir.name, list_settings(settings)))
    return logs


def write_trainer_state(output_dir: Path, state: Mapping[str, Any]) -> None:
    """Write ``trainer_state.json`` as transformers' trainer does, without what no tool reads."""
    write_text(output_dir / TRAINER_STATE_FILE, format_json(state))


def draw_losses(history: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Draw the losses of a log into a picture, written at once or not at all."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # slow to import
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 4.5), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    training = [(entry["step"], entry["loss"]) for entry in history if "loss" in entry]
    evaluation = [(entry["step"], entry["eval_loss"]) for entry in history if "eval_loss" in entry]
    if training:
        steps, losses = zip(*training, strict=True)
        marker = "o" if len(steps) == 1 else None
        axes.plot(steps, losses, color="#9db7d5", linewidth=1, marker=marker, label="training loss")
        means = [
            _compute_mean(losses[max(0, end - SMOOTHED_OVER) : end]) for end in range(1, len(losses) + 1)
        ]
        axes.plot(steps, means, color="#1f4e8c", label=f"mean of {SMOOTHED_OVER}")
    if evaluation:
        axes.plot(*zip(*evaluation, strict=True), color="#c0504d", marker="o", label="evaluation loss")
    axes.set_xlabel("step")
    axes.set_ylabel("loss")
    axes.grid(visible=True, alpha=0.3)
    if training or evaluation:
        axes.legend()
    content = io.BytesIO()
    figure.savefig(content, format="png", dpi=120)
    unfinished = path.with_name(f"{path.name}.tmp")
    unfinished.write_bytes(content.getvalue())
    os.replace(unfinished, path)  # because viewers reload the picture while it is written


def _compute_mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
