"""The hooks of the CPU backend."""

from __future__ import annotations

from glm_core import hookimpl
from glm_core.records import BackendInfo, LoadedModel, Placement, QuantizationScheme

GLM_API_VERSION = 2
SCHEMES = ("int8", "int4", "int4-g128", "int4-g64", "int4-g32")
KINDS = ("torch",)


@hookimpl
def describe_backend() -> BackendInfo:
    """The processor, its memory, the dtype that it runs fast, and which kernels there are."""
    from ._native import kernel_choices
    from ._processor import describe

    return BackendInfo(
        "cpu", (describe(),), priority=0, schemes=SCHEMES, kernels=kernel_choices(), kinds=KINDS
    )


@hookimpl
def quantize(model: LoadedModel, scheme: QuantizationScheme) -> LoadedModel | None:
    """Quantise the blocks' linear layers, read one by one from the checkpoint."""
    from ._placement import quantize_on_cpu  # here, so that start-up does not pay for torch

    return quantize_on_cpu(model, scheme)


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
