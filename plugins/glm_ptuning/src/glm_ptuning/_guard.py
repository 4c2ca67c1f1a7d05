"""Stopping a training that has gone wrong."""

from __future__ import annotations

import math
from collections import deque
from statistics import median
from typing import Any

from glm_core.errors import GlmError

# A single loss of 0 may come from a batch whose answers are all known; ten in a row mean that nothing is
# learnt.
ZERO_STEPS = 10
# Medians of several steps, because the loss of one step jumps with its rows.
START_STEPS = 10
WINDOW = 50
# Both must be exceeded: the factor alone would stop a job whose loss is near 0 and trembles, the margin alone
# one whose loss is large by nature.
FACTOR, MARGIN = 1.5, 1.0

REMEDIES = (
    "Lower the learning rate (a tenth of it, say), train the base in float32 or bfloat16 instead of float16, "
    "and look at the data: rows without sense, or answers that are cut to nothing"
)


class TrainingStoppedError(GlmError):
    """The numbers of a training say that going on is no use; the newest checkpoint is still good."""


class DivergenceGuard:
    """Checks the loss and gradient of every step.

    Args:
        stop_on_divergence: also stop when the loss stays far above where it began.
    """

    def __init__(self, *, stop_on_divergence: bool = True) -> None:
        self._stop_on_divergence = stop_on_divergence
        self._zeros = 0
        self._first: list[float] = []
        self._last: deque[float] = deque(maxlen=WINDOW)

    def check(self, step: int, loss: float, gradient_norm: float) -> None:
        """Check one step.

        Args:
            step: its number, from 1.
            loss: mean over its rows.
            gradient_norm: before clipping.

        Raises:
            TrainingStoppedError: saying what is wrong and what to do.
        """
        if not math.isfinite(loss):
            raise TrainingStoppedError(f"step {step}: the loss is {loss}. {REMEDIES}.")
        if not math.isfinite(gradient_norm):
            raise TrainingStoppedError(
                f"step {step}: the loss is {loss:.4g}, but its gradient is not finite. {REMEDIES}."
            )
        self._zeros = self._zeros + 1 if loss == 0 else 0
        if self._zeros >= ZERO_STEPS:
            raise TrainingStoppedError(
                f"step {step}: the loss has been exactly 0 for {ZERO_STEPS} steps, so nothing is learnt. "
                "Train the base in float32 or bfloat16, and see whether the answers are empty or all alike."
            )
        self._watch(step, loss)

    def _watch(self, step: int, loss: float) -> None:
        if len(self._first) < START_STEPS:
            self._first.append(loss)
        self._last.append(loss)
        if not self._stop_on_divergence or len(self._last) < WINDOW:
            return
        start, now = median(self._first), median(self._last)  # median: a few peaks are no divergence
        if now > FACTOR * start and now > start + MARGIN:
            raise TrainingStoppedError(
                f"step {step}: the training diverges: the loss was {start:.3g} at its start and is {now:.3g} "
                f"over the last {WINDOW} steps. {REMEDIES}. stop_on_divergence=false goes on regardless."
            )

    def get_state(self) -> dict[str, Any]:
        """Return what a checkpoint must keep of the guard."""
        return {"zeros": self._zeros, "first": self._first, "last": list(self._last)}

    def load_state(self, state: dict[str, Any]) -> None:
        """Restore what `get_state` returned."""
        self._zeros, self._first = int(state["zeros"]), [float(loss) for loss in state["first"]]
        self._last = deque(map(float, state["last"]), maxlen=WINDOW)
