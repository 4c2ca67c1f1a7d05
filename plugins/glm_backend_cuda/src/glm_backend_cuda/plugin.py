"""The hooks of the CUDA backend."""

from __future__ import annotations

from glm_core import hookimpl
from glm_core.records import BackendInfo, LoadedModel, Placement, QuantizationScheme

GLM_API_VERSION = 2
PRIORITY = 100  # before Apple's GPU and the processor
SCHEMES = ("int8", "int4", "int4-g128", "int4-g64", "int4-g32")
KINDS = ("torch",)
KERNELS = ("triton", "torch", "cpm")


@hookimpl
def describe_backend() -> BackendInfo:
    """The NVIDIA GPUs that this process may use."""
    from ._devices import describe

    return BackendInfo("cuda", describe(), priority=PRIORITY, schemes=SCHEMES, kernels=KERNELS, kinds=KINDS)


@hookimpl
def quantize(model: LoadedModel, scheme: QuantizationScheme) -> LoadedModel | None:
    """Quantise the blocks' linear layers, read one by one from the checkpoint."""
    from ._placement import quantize_for_cuda  # here, so that start-up does not pay for torch

    return quantize_for_cuda(model, scheme)


@hookimpl
def place(model: LoadedModel, placement: Placement) -> LoadedModel | None:
    """Put the weights on the GPU or GPUs and start the engine."""
    from ._placement import place_on_cuda  # here, so that start-up does not pay for torch

    return place_on_cuda(model, placement)


@hookimpl
def measure_bandwidth(device: str) -> float:
    """Copy a large buffer on the device."""
    from ._bandwidth import measure  # here, so that start-up does not pay for torch

    return measure(device)
