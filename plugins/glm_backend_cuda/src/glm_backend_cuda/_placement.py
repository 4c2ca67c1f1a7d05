"""Putting a model of the torch runtime onto one NVIDIA GPU or several."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from glm_runtime_torch.backends import DeviceMap, TorchModel, find_device_map, place_model

from glm_core import DeviceError
from glm_core.records import LoadedModel, Placement

from ._choice import choose_kernels
from ._executor import Recorder
from ._kernel_set import CudaKernels


def place_on_cuda(model: LoadedModel, placement: Placement) -> LoadedModel | None:
    """Check that everything fits, read the weights, put the kernels in, start the engine.

    Raises:
        OutOfMemoryError: it does not fit; nothing was read.
        DeviceError: a GPU is absent, or the map or the kernels cannot be used.
        ConfigError: the map does not suit the model.
    """
    if not isinstance(model, TorchModel):
        return None
    devices = [_parse_device(name) for name in placement.devices]
    places = find_places_of_borrowed(model) if model.is_borrowed else None
    if places is not None:
        devices = list(places.devices)
    return place_on(model, placement, measure_free_bytes(devices), places)


def place_on(
    model: TorchModel,
    placement: Placement,
    free: Mapping[torch.device, int],
    places: DeviceMap | None = None,
    recorder: Recorder | None = None,
) -> TorchModel:
    """Place a model on devices with so many free bytes; they may be of any type.

    Args:
        model: any.
        placement: what was asked for; its devices are those of ``free``.
        free: device to its free bytes, in order.
        places: where the parts of a borrowed model are, which cannot be moved.
        recorder: of decode steps; ``None`` = CUDA graphs where the one device is a GPU.
    """

    def choose(devices: Sequence[torch.device]) -> CudaKernels:
        return choose_kernels(placement.kernels, devices, model.dtype, recorder)

    return place_model(model, placement, free, choose, places=places)


def find_places_of_borrowed(model: TorchModel) -> DeviceMap:
    """Return on which GPUs the parts of a borrowed model are.

    Raises:
        DeviceError: a part of it is on another kind of device.
    """
    places = find_device_map(model.network)
    elsewhere = [str(device) for device in places.devices if device.type != "cuda"]
    if elsewhere:
        raise DeviceError(
            f"a part of the model is on {', '.join(elsewhere)} and a part on a GPU; "
            "call .cuda() on all of it."
        )
    return places


def measure_free_bytes(devices: Sequence[torch.device]) -> dict[torch.device, int]:
    """Ask the driver for the free bytes of each GPU; what torch holds without using it counts as free.

    Raises:
        DeviceError: this PyTorch does not see one of them.
    """
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    for device in devices:
        if (device.index or 0) >= count:
            raise DeviceError(
                f"this PyTorch sees {count} NVIDIA GPUs, and {device} is not one of them; "
                "glm devices lists those that there are."
            )
    found = {}
    for device in devices:
        unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        found[device] = torch.cuda.mem_get_info(device)[0] + unused
    return found


def _parse_device(name: str) -> torch.device:
    device = torch.device(name)
    return torch.device("cuda", 0) if device.index is None else device
