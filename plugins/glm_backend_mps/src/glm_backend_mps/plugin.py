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
    """Describe the GPU of this Mac, or say why there is none."""
    from ._devices import describe

    return BackendInfo("mps", (describe(),), priority=PRIORITY, schemes=SCHEMES, kernels=KERNELS, kinds=KINDS)


@hookimpl
def quantize(model: LoadedModel, scheme: QuantizationScheme) -> LoadedModel | None:
    """Replace the blocks' linear layers by quantised ones, each read from its file; see `quantize_model`.

    They are the runtime's own layers over stored integers. ``place`` gives them the form of the kernels.
    """
    from glm_runtime_torch.backends import quantize_model  # here, so that start-up does not pay for torch

    return quantize_model(model, scheme)


@hookimpl
def place(model: LoadedModel, placement: Placement) -> LoadedModel | None:
    """Read the weights into the memory that the GPU shares, and start the engine."""
    from ._placement import place_on_mps  # here, so that start-up does not pay for torch

    return place_on_mps(model, placement)
