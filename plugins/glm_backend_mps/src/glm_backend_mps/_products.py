"""The device's products with stored integers as a `KernelSet`; each is tried before it is used."""

from __future__ import annotations

import logging
from typing import Protocol

import torch
from glm_runtime_torch.backends import KernelSet, QuantizedLinear, quantize_rows
from torch import Tensor, nn

from glm_core import DeviceError

_log = logging.getLogger("glm")

# float16 rounds scales and results to 11 bits; a wrong order of nibbles or groups gives errors above 100 %.
LARGEST_ERROR = 0.02
TRIED_SHAPE = 64, 256  # rows and columns of the matrix that products are tried on


class DeviceOperations(Protocol):
    """The device's operations, see `glm_backend_mps._metal`; tests put the processor in its place."""

    DEVICE: torch.device
    INT4_GROUPS: tuple[int, ...]
    INT4_ROWS: int

    def is_available(self) -> bool:
        """Return whether the device can be used."""
        ...

    def measure_free_bytes(self) -> int:
        """Return the memory that a model may take."""
        ...

    def multiply_int8(self, x: Tensor, weight: Tensor, scale: Tensor) -> Tensor:
        """Return a product with int8 weights."""
        ...

    def pack_int4(self, nibbles: Tensor) -> Tensor:
        """Return int4 weights in the product's form."""
        ...

    def multiply_int4(self, x: Tensor, packed: Tensor, group: int, scale_and_zero: Tensor) -> Tensor:
        """Return a product with int4 weights."""
        ...


class ProductInt8Linear(nn.Module):
    """int8 weights with a scale per row; shares the stored integers of the layer that it replaces."""

    def __init__(self, layer: QuantizedLinear, operations: DeviceOperations, dtype: torch.dtype) -> None:
        super().__init__()
        self.in_features, self.out_features = layer.in_features, layer.out_features
        self._operations = operations
        self.weight = layer.weight
        self.weight_scale = nn.Parameter(layer.weight_scale.detach().to(dtype), requires_grad=False)
        self.bias = layer.bias

    def forward(self, x: Tensor) -> Tensor:
        """Map ``[..., in]`` to ``[..., out]`` in the dtype of ``x``."""
        rows = x.reshape(-1, self.in_features).to(self.weight_scale.dtype)
        product = self._operations.multiply_int8(rows, self.weight, self.weight_scale)
        return _finish(product, self.bias, x)


class ProductInt4Linear(nn.Module):
    """int4 weights with a scale per row or per group of inputs."""

    def __init__(
        self, layer: QuantizedLinear, operations: DeviceOperations, dtype: torch.dtype, group: int
    ) -> None:
        super().__init__()
        self.in_features, self.out_features = layer.in_features, layer.out_features
        self._operations, self._group = operations, group
        # Flipping the highest bit of a signed nibble adds 8 to it.
        nibbles = layer.weight.detach().view(torch.uint8) ^ 0x88
        self.weight = nn.Parameter(operations.pack_int4(nibbles), requires_grad=False)
        scale = layer.weight_scale.detach().to(dtype)
        scale = scale.unsqueeze(1) if scale.dim() == 1 else scale
        every = scale.repeat_interleave(
            self.in_features // group // scale.shape[1], dim=1
        ).T  # [K / group, N]
        both = torch.stack((every, torch.zeros_like(every)), dim=-1).contiguous()
        self.scale_and_zero = nn.Parameter(both, requires_grad=False)
        self.bias = layer.bias

    def forward(self, x: Tensor) -> Tensor:
        """Map ``[..., in]`` to ``[..., out]`` in the dtype of ``x``."""
        rows = x.reshape(-1, self.in_features).to(self.scale_and_zero.dtype).contiguous()
        product = self._operations.multiply_int4(rows, self.weight, self._group, self.scale_and_zero)
        return _finish(product, self.bias, x)


class ProductKernels(KernelSet):
    """Layers over the device's products of stored integers.

    Args:
        operations: of the device.
        dtype: that the model computes in.
        wanted: what the user asked for: ``metal``, ``torch`` or ``auto``.
    """

    def __init__(self, operations: DeviceOperations, dtype: torch.dtype, wanted: str) -> None:
        self._operations, self._dtype, self._wanted = operations, dtype, wanted
        self._refused: dict[int, str] = {}

    def make_quantized_linear(self, layer: QuantizedLinear) -> nn.Module | None:
        """See `make_product_layer`.

        Raises:
            DeviceError: ``metal`` was asked for, and the product is missing or wrong.
        """
        if self._wanted == "torch" or self._refuse(layer.bits):
            return None
        return make_product_layer(layer, self._operations, self._dtype)

    def _refuse(self, bits: int) -> str:
        """Return why the product with these integers cannot be used; tried once, and told in a warning."""
        if bits not in self._refused:
            reason = self._refused[bits] = check(bits, self._operations, self._dtype)
            if reason and self._wanted == "metal":
                raise DeviceError(f"--kernels metal: {reason}; use --kernels torch.")
            if reason:
                _log.warning(
                    "kernels for int%d: torch, which makes a float matrix at every call and is slow, "
                    "because %s",
                    bits,
                    reason,
                )
        return self._refused[bits]


def make_product_layer(
    layer: QuantizedLinear, operations: DeviceOperations, dtype: torch.dtype
) -> nn.Module | None:
    """Return a layer over the device's product; ``None`` if the sizes of ``layer`` do not suit."""
    if layer.bits == 8:
        return ProductInt8Linear(layer, operations, dtype)
    fitting = [
        group
        for group in operations.INT4_GROUPS
        if layer.in_features % group == 0 and (layer.group_size or group) % group == 0
    ]
    if not fitting or layer.out_features % operations.INT4_ROWS:
        return None
    return ProductInt4Linear(layer, operations, dtype, fitting[0])


def check(bits: int, operations: DeviceOperations, dtype: torch.dtype) -> str:
    """Try a product on a small matrix; return why it cannot be used, or nothing."""
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(TRIED_SHAPE, generator=generator)
    x = torch.randn(3, TRIED_SHAPE[1], generator=generator).to(operations.DEVICE, dtype)
    stored, scale = quantize_rows(weight, bits)
    layer = QuantizedLinear.from_stored(stored, scale, None, bits).to(operations.DEVICE)
    try:
        made = make_product_layer(layer, operations, dtype)
        assert made is not None  # the tried shape suits every product
        got = made(x).float().cpu()
    except (RuntimeError, NotImplementedError, AttributeError, TypeError) as error:
        first_line = next(iter(str(error).splitlines()), type(error).__name__)  # a message may be empty
        return f"this PyTorch has no int{bits} product there ({first_line})"
    wanted = layer(x).float().cpu()
    error_share = float((got - wanted).norm() / wanted.norm())
    if not error_share <= LARGEST_ERROR:  # also if it is NaN
        return f"this PyTorch's int{bits} product is wrong there by {error_share:.0%}"
    return ""


def _finish(product: Tensor, bias: Tensor | None, x: Tensor) -> Tensor:
    y = product if bias is None else product + bias
    return y.to(x.dtype).unflatten(0, x.shape[:-1])
