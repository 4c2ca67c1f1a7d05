"""Where a transformers model of ours runs: no missing hardware, and its device's own kernels."""

from __future__ import annotations

import platform
from typing import TYPE_CHECKING

import torch
from transformers import PreTrainedModel

from glm_core import DeviceError
from glm_core.config import Settings
from glm_core.pairing import choose_route, identify
from glm_core.plugins import get_default_host
from glm_core.records import ModelSource
from glm_core.stages import open_identified
from glm_core.survey import take_survey

from ..model.torch_model import TorchModel

if TYPE_CHECKING:
    from .tokenization import ChatGLMTokenizer


def require_device(device: torch.device) -> None:
    """Refuse a device that this machine, or this PyTorch, has not.

    Raises:
        DeviceError: saying which of them, and what to do instead.
    """
    if device.type == "cuda" and not torch.cuda.is_available():
        why = "was built without CUDA" if torch.version.cuda is None else "sees no device"
        raise DeviceError(
            f"no NVIDIA GPU can be used: this PyTorch {why}. Install the driver and a PyTorch with CUDA "
            "(pytorch.org/get-started), or leave .half().cuda() out and call .float() to run on the CPU."
        )
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise DeviceError(
            f"there is no {device}: this machine has {torch.cuda.device_count()} NVIDIA GPU(s)."
        )
    if device.type == "mps" and not torch.backends.mps.is_available():
        is_mac = platform.system() == "Darwin" and platform.machine() == "arm64"
        why = "this PyTorch does not see it" if is_mac else "this is no Mac with Apple silicon"
        raise DeviceError(
            f"no Apple GPU can be used: {why}. "
            "Leave .half().to('mps') out and call .float() to run on the CPU."
        )


def place_by_backend(model: PreTrainedModel, tokenizer: ChatGLMTokenizer) -> TorchModel | None:
    """Return the model as its device's backend places it, for one conversation.

    Its own layers stay as they are.

    Returns:
        ``None`` if no backend for its device is installed.
    """
    devices = list(dict.fromkeys(parameter.device for parameter in model.parameters()))
    indices = ",".join(str(device.index or 0) for device in devices)
    settings = Settings(device=f"{devices[0].type}:{indices}", slots=1)
    survey = take_survey(get_default_host())
    identification = identify(survey, ModelSource("model", model=model, tokenizer=tokenizer))
    try:
        choose_route(survey, identification, settings.device)
    except DeviceError:
        return None
    placed = open_identified(survey, identification, settings, notify=lambda line: None).loaded
    assert isinstance(placed, TorchModel)  # no other runtime takes this class
    return placed
