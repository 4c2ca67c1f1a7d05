"""Optimisers against those that transformers' trainer makes of the same arguments."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from glm_ptuning._optimizer import build_optimizer
from glm_ptuning._settings import parse_settings
from transformers import TrainingArguments
from transformers.trainer import Trainer


def make_parameters() -> dict[str, torch.nn.Parameter]:
    """Matrices and vectors of different sizes, always the same."""
    generator = torch.Generator().manual_seed(3)
    shapes = {"weight": (6, 5), "bias": (7,), "table": (4, 3, 2)}
    return {
        name: torch.nn.Parameter(torch.randn(shape, generator=generator)) for name, shape in shapes.items()
    }


def run_steps(optimizer: torch.optim.Optimizer, parameters: dict[str, torch.nn.Parameter]) -> None:
    """Five steps along gradients that are always the same."""
    generator = torch.Generator().manual_seed(5)
    for _ in range(5):
        for value in parameters.values():
            value.grad = torch.randn(value.shape, generator=generator)
        optimizer.step()


@pytest.mark.parametrize("optim", ["adafactor", "adamw_torch", "sgd", "adagrad", "rmsprop"])
def test_an_optimiser_moves_as_the_librarys(optim: str, tmp_path: Path) -> None:
    """The same weights after five steps, so a learning rate means the same here and there."""
    numbers = {"learning_rate": 0.01, "adam_beta1": 0.8, "adam_beta2": 0.95, "adam_epsilon": 1e-6}
    ours = make_parameters()
    run_steps(build_optimizer(parse_settings({"optim": optim, **numbers}), ours.items()), ours)
    theirs = make_parameters()
    arguments = TrainingArguments(
        output_dir=str(tmp_path), optim=optim, use_cpu=True, report_to="none", **numbers
    )
    kind, keywords = Trainer.get_optimizer_cls_and_kwargs(arguments)
    run_steps(kind([{"params": list(theirs.values()), "weight_decay": 0.0}], **keywords), theirs)
    before = make_parameters()
    for name, value in ours.items():
        torch.testing.assert_close(value, theirs[name], rtol=1e-5, atol=1e-6)
        assert (value - before[name]).abs().max() > 1e-3
