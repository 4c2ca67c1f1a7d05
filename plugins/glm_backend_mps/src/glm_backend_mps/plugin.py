"""The hooks of the MPS backend."""

from __future__ import annotations

from glm_core import hookimpl
from glm_core.records import BackendInfo, LoadedModel, Placement, QuantizationScheme

GLM_API_VERSION = 2
PRIORITY = 50  # before the processor, after an NVIDIA GPU
SCHEMES = ("int8", "int4", "int4-g128", "int4-g64", "int4-g32")
KINDS = ("torch",)
KERNELS = ("metal", "torch")


@hookimpl
def describe_backend() -> BackendInfo:
    """The GPU of this Mac, or why there is none."""
    from ._devices import describe

    return BackendInfo("mps", (describe(),), priority=PRIORITY, schemes=SCHEMES, kernels=KERNELS, kinds=KINDS)


@hookimpl
def quantize(model: LoadedModel, scheme: QuantizationScheme) -> LoadedModel | None:
    """Quantise the blocks' linear layers, read one by one from the checkpoint."""
    from ._placement import quantize_for_mps  # here, so that start-up does not pay for torch

    return quantize_for_mps(model, scheme)


@hookimpl
def place(model: LoadedModel, placement: Placement) -> LoadedModel | None:
    """Read the weights into the memory that the GPU shares, and start the engine."""
    from ._placement import place_on_mps  # here, so that start-up does not pay for torch

    return place_on_mps(model, placement)
