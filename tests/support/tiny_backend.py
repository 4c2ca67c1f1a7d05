"""A backend as somebody else would write it: on the kit's public names, with kernels of its own in torch."""

from __future__ import annotations

import torch
from glm_runtime_torch.backends import (
    KernelSet,
    QuantizedLinear,
    TorchModel,
    dequantize_rows,
    place_model,
    quantize_model,
)
from torch import Tensor, nn

from glm_core import hookimpl
from glm_core.records import BackendInfo, DeviceInfo, LoadedModel, Placement, QuantizationScheme

GLM_API_VERSION = 2
DEVICE, FREE_BYTES = torch.device("cpu"), 2**30


class TransposedLinear(nn.Module):
    """A linear layer over a matrix that is stored by columns."""

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        super().__init__()
        self.columns = nn.Parameter(weight.T.contiguous(), requires_grad=False)
        self.bias = bias

    def forward(self, x: Tensor) -> Tensor:
        """Map ``[..., in]`` to ``[..., out]``."""
        y = x @ self.columns
        return y if self.bias is None else y + self.bias


class TransposedKernels(KernelSet):
    """Every product by columns; all else is the runtime's."""

    description = "kernels: transposed"

    def make_linear(self, layer: nn.Linear) -> nn.Module:
        """See `KernelSet.make_linear`."""
        return TransposedLinear(layer.weight, layer.bias)

    def make_quantized_linear(self, layer: QuantizedLinear) -> nn.Module:
        """See `KernelSet.make_quantized_linear`."""
        stored = layer.weight, layer.weight_scale, layer.bits
        return TransposedLinear(dequantize_rows(*stored, torch.float32, layer.group_size), layer.bias)


@hookimpl
def describe_backend() -> BackendInfo:
    """Describe one device beside the usual ones."""
    device = DeviceInfo("transposed", "transposed", "The processor, by columns", dtypes=("float32",))
    return BackendInfo("transposed", (device,), schemes=("int8", "int4"), kinds=("torch",))


@hookimpl
def quantize(model: LoadedModel, scheme: QuantizationScheme) -> LoadedModel | None:
    """Quantise straight from the files."""
    return quantize_model(model, scheme)


@hookimpl
def place(model: LoadedModel, placement: Placement) -> LoadedModel | None:
    """Place with the kernels above."""
    if not isinstance(model, TorchModel):
        return None
    return place_model(model, placement, {DEVICE: FREE_BYTES}, TransposedKernels())
