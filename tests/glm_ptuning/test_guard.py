"""Which trainings are stopped, and which go on."""

from __future__ import annotations

import math

import pytest
from glm_ptuning._guard import START_STEPS, WINDOW, ZERO_STEPS, DivergenceGuard, TrainingStoppedError
from key_words import containing


def run(guard: DivergenceGuard, losses: list[float], norm: float = 1.0) -> None:
    for step, loss in enumerate(losses, start=1):
        guard.check(step, loss, norm)


@pytest.mark.parametrize("loss", [math.nan, math.inf])
def test_a_loss_that_is_not_finite_stops_at_once(loss: float) -> None:
    """The step is named, and what to do."""
    with pytest.raises(
        TrainingStoppedError, match=r"step 3: the loss is (nan|inf)\. Lower the learning rate"
    ):
        run(DivergenceGuard(), [2.0, 1.0, loss])


def test_a_gradient_that_is_not_finite_stops_at_once() -> None:
    """A finite loss does not hide it."""
    with pytest.raises(TrainingStoppedError, match="its gradient is not finite"):
        run(DivergenceGuard(), [2.0], norm=math.inf)


def test_zero_loss_stops_after_some_steps_in_a_row() -> None:
    """Exact zeros in a row stop; a step between them starts the count again."""
    run(DivergenceGuard(), [0.0] * (ZERO_STEPS - 1) + [0.1] + [0.0] * (ZERO_STEPS - 1))
    with pytest.raises(TrainingStoppedError, match="exactly 0 for 10 steps"):
        run(DivergenceGuard(), [0.0] * ZERO_STEPS)


def test_divergence_stops_when_it_lasts() -> None:
    """Fifty steps far above the start stop; a peak, or a loss that only stays high, does not."""
    calm = [3.0] * START_STEPS
    run(DivergenceGuard(), calm + [30.0] * 3 + [3.0] * 100)
    run(DivergenceGuard(), calm + [4.0] * 200)
    with pytest.raises(TrainingStoppedError, match=containing("diverges", "loss", "3")):
        run(DivergenceGuard(), calm + [9.0] * WINDOW)
    run(DivergenceGuard(stop_on_divergence=False), calm + [9.0] * 2 * WINDOW)


def test_a_resumed_guard_counts_on() -> None:
    """What it has seen survives in its state."""
    before, after = DivergenceGuard(), DivergenceGuard()
    run(before, [3.0] * START_STEPS + [9.0] * (WINDOW - 12))
    after.load_state(before.get_state())
    with pytest.raises(TrainingStoppedError, match="diverges"):
        run(after, [9.0] * 20)
