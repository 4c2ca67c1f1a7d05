"""The optimiser and the learning rate of each step, as the original's trainer has them by default."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor
from transformers import get_scheduler
from transformers.optimization import Adafactor

from glm_core.errors import ConfigError

from ._settings import TrainingSettings

_PREFIX = "optimizer."


def build_optimizer(
    settings: TrainingSettings, named_parameters: Iterable[tuple[str, Tensor]]
) -> torch.optim.Optimizer:
    """Return the optimiser; vectors (biases, norms) have no weight decay."""
    named = list(named_parameters)
    groups: list[dict[str, Any]] = [
        {"params": [value for _, value in named if value.dim() >= 2], "weight_decay": settings.weight_decay},
        {"params": [value for _, value in named if value.dim() < 2], "weight_decay": 0.0},
    ]
    groups = [group for group in groups if group["params"]]
    rate = settings.learning_rate
    match settings.optimizer:
        case "adafactor":
            # As transformers' trainer makes it: the rate that is set is the rate. PyTorch's Adafactor would
            # make it smaller by another rule, and move 60 times less.
            return Adafactor(groups, lr=rate, scale_parameter=False, relative_step=False)
        case "sgd":
            return torch.optim.SGD(groups, lr=rate)
        case "adagrad":
            return torch.optim.Adagrad(groups, lr=rate)
        case "rmsprop":
            return torch.optim.RMSprop(groups, lr=rate)
        case _:
            betas = settings.adam_beta1, settings.adam_beta2
            return torch.optim.AdamW(groups, lr=rate, betas=betas, eps=settings.adam_epsilon)


def make_schedule(
    settings: TrainingSettings, optimizer: torch.optim.Optimizer, total_steps: int
) -> Callable[[int], float]:
    """Return the learning rate as a function of the step, from 0; a schedule has no state to resume.

    Raises:
        ConfigError: transformers has no schedule of that name, or it depends on more than the step.
    """
    warmup = settings.count_steps("warmup_steps", total_steps) or math.ceil(
        total_steps * settings.warmup_ratio
    )
    try:
        schedule = get_scheduler(
            settings.lr_scheduler_type,
            optimizer,
            num_warmup_steps=warmup,
            num_training_steps=total_steps,
            scheduler_specific_kwargs=dict(settings.lr_scheduler_kwargs or {}),
        )
        # The function itself, not the scheduler, whose own counter a resumed job would have to restore.
        factor: Callable[[int], float] = schedule.lr_lambdas[0]
        factor(total_steps - 1)  # during warm-up the schedule itself, and its arguments, are not looked at
    except (ValueError, TypeError, AttributeError, KeyError, ArithmeticError) as error:
        raise ConfigError(
            f"lr_scheduler_type {settings.lr_scheduler_type!r} cannot be used ({error}); linear, cosine, "
            "constant, constant_with_warmup and polynomial can"
        ) from error
    return lambda step: settings.learning_rate * factor(step)


def set_learning_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Use this rate from now on."""
    for group in optimizer.param_groups:
        group["lr"] = rate


def get_optimizer_state(optimizer: torch.optim.Optimizer) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return what the optimiser remembers of each parameter: tensors and plain values, by name."""
    tensors: dict[str, Tensor] = {}
    values: dict[str, Any] = {}
    for index, state in optimizer.state_dict()["state"].items():
        for name, value in state.items():
            (tensors if isinstance(value, Tensor) else values)[f"{_PREFIX}{index}.{name}"] = value
    return tensors, values


def load_optimizer_state(
    optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor], values: Mapping[str, Any]
) -> None:
    """Restore what `get_optimizer_state` returned."""
    state: dict[int, dict[str, Any]] = {}
    for full_name, value in {**tensors, **values}.items():
        if full_name.startswith(_PREFIX):
            index, _, name = full_name.removeprefix(_PREFIX).partition(".")
            state.setdefault(int(index), {})[name] = value
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
