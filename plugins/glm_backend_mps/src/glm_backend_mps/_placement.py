"""Putting a model of the torch runtime onto the GPU of a Mac."""

from __future__ import annotations

from typing import cast

from glm_runtime_torch.backends import TorchModel, make_single_device_map, place_model

from glm_core import DeviceError
from glm_core.records import LoadedModel, Placement

from . import _metal
from ._products import DeviceOperations, ProductKernels


def place_on_mps(
    model: LoadedModel,
    placement: Placement,
    operations: DeviceOperations = cast(DeviceOperations, _metal),  # noqa: B008
) -> LoadedModel | None:
    """Read the weights, choose what multiplies stored integers, start the engine.

    Args:
        model: any; ``None`` is the answer for one of another runtime.
        placement: its one device is this backend's.
        operations: the device; tests put the processor in its place.

    Raises:
        OutOfMemoryError: the model does not fit.
        DeviceError: this PyTorch cannot use the GPU, or ``--kernels metal`` cannot be had.
    """
    if not isinstance(model, TorchModel):
        return None
    if not operations.is_available():
        raise DeviceError(
            "this PyTorch cannot use the Mac's GPU; install the build from PyPI "
            "(pip install --force-reinstall torch), or choose --device cpu."
        )
    return place_model(
        model,
        placement,
        {operations.DEVICE: operations.measure_free_bytes()},
        ProductKernels(operations, model.dtype, placement.kernels),
        places=make_single_device_map(model.parts, operations.DEVICE) if model.is_borrowed else None,
    )
