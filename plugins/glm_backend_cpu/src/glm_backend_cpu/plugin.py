"""The hooks of the CPU backend."""

from __future__ import annotations

from glm_core import hookimpl
from glm_core.records import BackendInfo, LoadedModel, Placement, QuantizationScheme

GLM_API_VERSION = 2
SCHEMES = ("int8", "int4", "int4-g128", "int4-g64", "int4-g32")
KINDS = ("torch",)


@hookimpl
def describe_backend() -> BackendInfo:
    """Describe the processor, its memory, the dtype that it runs fast, and which kernels there are."""
    from ._native import list_kernel_choices
    from ._processor import describe

    return BackendInfo(
        "cpu", (describe(),), priority=0, schemes=SCHEMES, kernels=list_kernel_choices(), kinds=KINDS
    )


@hookimpl
def quantize(model: LoadedModel, scheme: QuantizationScheme) -> LoadedModel | None:
    """Replace the blocks' linear layers by quantised ones, each read from its file; see `quantize_model`.

    They are the runtime's own layers over stored integers. ``place`` gives them the form of the kernels.
    """
    from glm_runtime_torch.backends import quantize_model  # here, so that start-up does not pay for torch

    return quantize_model(model, scheme)


@hookimpl
def place(model: LoadedModel, placement: Placement) -> LoadedModel | None:
    """Read the weights into memory and start the engine on this processor."""
    from ._placement import place_on_cpu  # here, so that start-up does not pay for torch

    return place_on_cpu(model, placement)


@hookimpl
def measure_bandwidth(device: str) -> float:
    """Read a large buffer with as many threads as there are cores."""
    from ._bandwidth import measure  # here, so that start-up does not pay for torch

    return measure(device)
