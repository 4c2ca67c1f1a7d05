"""How far a training is: what a checkpoint keeps beside the tensors."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass
class LoopProgress:
    """How far a job is; a checkpoint keeps it beside the tensors.

    Attributes:
        step: steps done.
        loss_sum: of the steps since the last entry of the log.
        loss_steps: how many these are.
        total_loss: of all steps.
        history: the log.
        best_loss: lowest evaluation loss so far.
        best_step: its step.
    """

    step: int = 0
    loss_sum: float = 0.0
    loss_steps: int = 0
    total_loss: float = 0.0
    history: list[dict[str, Any]] = field(default_factory=list)
    best_loss: float | None = None
    best_step: int | None = None

    def check(self, step: int) -> None:
        """Refuse values that no job writes, before they become another error some steps later.

        Raises:
            ValueError: a field is of another type, or the step is not the checkpoint's.
        """
        numbers = (self.loss_sum, self.total_loss, self.best_loss or 0.0)
        counts = (self.step, self.loss_steps, self.best_step or 0)
        if (
            self.step != step
            or not all(type(value) in (int, float) for value in numbers)
            or not all(type(value) is int and value >= 0 for value in counts)
            or not all(isinstance(entry, dict) and "step" in entry for entry in self.history)
        ):
            raise ValueError("its progress or log is not what a job writes")
