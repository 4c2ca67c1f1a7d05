"""Launching on the device where the tensors are."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor


def use_device_of(tensor: Tensor) -> AbstractContextManager[Any]:
    """Make a tensor's device the current one for a launch: Triton and the driver launch there."""
    return torch.cuda.device(tensor.device) if tensor.is_cuda else nullcontext()
