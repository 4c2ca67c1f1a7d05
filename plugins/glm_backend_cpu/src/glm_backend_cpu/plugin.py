"""The hooks of the CPU backend."""

from __future__ import annotations

from glm_core import hookimpl
from glm_core.records import BackendInfo, LoadedModel, Placement, QuantizationScheme

GLM_API_VERSION = 1


@hookimpl
def describe_backend() -> BackendInfo:
    """The processor, its memory, and the dtype that it runs fast."""
    from ._processor import describe

    return BackendInfo("cpu", (describe(),), priority=0, schemes=("int8", "int4"))


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
