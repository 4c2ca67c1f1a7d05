"""What the layers of every kind of kernel do with their tensors."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn


def freeze(tensor: Tensor) -> nn.Parameter:
    """Return a parameter that wants no gradient; one that is already such stays the same object."""
    if isinstance(tensor, nn.Parameter) and not tensor.requires_grad:
        return tensor
    return nn.Parameter(tensor.detach(), requires_grad=False)


def use_device_of(tensor: Tensor) -> AbstractContextManager[Any]:
    """Make a tensor's device the current one for a launch: Triton and the driver launch there."""
    return torch.cuda.device(tensor.device) if tensor.is_cuda else nullcontext()
