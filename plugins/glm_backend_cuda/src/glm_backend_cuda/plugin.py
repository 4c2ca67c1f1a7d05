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
    """Describe the NVIDIA GPUs that this process may use."""
    from ._devices import describe

    return BackendInfo("cuda", describe(), priority=PRIORITY, schemes=SCHEMES, kernels=KERNELS, kinds=KINDS)


@hookimpl
def quantize(model: LoadedModel, scheme: QuantizationScheme) -> LoadedModel | None:
    """Replace the blocks' linear layers by quantised ones, each read from its file; see `quantize_model`.

    They are the runtime's own layers over stored integers. ``place`` gives them the form of the kernels.
    """
    from glm_runtime_torch.backends import quantize_model  # here, so that start-up does not pay for torch

    return quantize_model(model, scheme)


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
