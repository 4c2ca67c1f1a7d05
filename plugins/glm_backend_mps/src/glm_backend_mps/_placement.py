"""Putting a model of the torch runtime onto the GPU of a Mac."""

from __future__ import annotations

import logging
from typing import cast

import torch
from glm_runtime_torch.model.device_map import one_device
from glm_runtime_torch.model.fitting import fit
from glm_runtime_torch.model.torch_model import TorchModel
from glm_runtime_torch.network.parameters import sharing_copy
from glm_runtime_torch.quantization import TABLE_SCHEME, QuantizedLinear
from glm_runtime_torch.quantization.replacing import replace_quantized
from torch import nn

from glm_core import DeviceError
from glm_core.records import LoadedModel, Placement, QuantizationScheme

from . import _metal
from ._products import Products, check, product_layer

_log = logging.getLogger("glm")


def quantize_for_mps(model: LoadedModel, scheme: QuantizationScheme) -> LoadedModel | None:
    """Quantise into the stored form; ``None`` for a model of another runtime."""
    if not isinstance(model, TorchModel):
        return None
    model.quantize(scheme, embeddings=TABLE_SCHEME)
    return model


def place_on_mps(
    model: LoadedModel,
    placement: Placement,
    products: Products = cast(Products, _metal),  # noqa: B008
) -> LoadedModel | None:
    """Read the weights, choose what multiplies stored integers, start the engine.

    Args:
        model: any; ``None`` is the answer for one of another runtime.
        placement: its one device is this backend's.
        products: the device; tests put the processor in its place.

    Raises:
        OutOfMemoryError: the model does not fit.
        DeviceError: this PyTorch cannot use the GPU, or ``--kernels metal`` cannot be had.
    """
    if not isinstance(model, TorchModel):
        return None
    if not products.is_available():
        raise DeviceError(
            "this PyTorch cannot use the Mac's GPU; install the build from PyPI "
            "(pip install --force-reinstall torch), or choose --device cpu."
        )
    there = one_device(model.parts, products.DEVICE) if model.is_borrowed else None
    found = fit(model, {products.DEVICE: products.free_bytes()}, placement, places=there)
    placement.notify(found.describe())
    if model.is_borrowed:  # its owner may want to train or save it: its own layers stay
        model.network = sharing_copy(model.network).eval()
    else:
        model.materialize(products.DEVICE)
    use_products(model.network, products, model.dtype, placement.kernels)
    model.start(
        products.DEVICE,
        slots=found.slots,
        context_length=found.context_length,
        kv_memory_bytes=placement.kv_memory_bytes or 0,
    )
    return model


def use_products(network: nn.Module, products: Products, dtype: torch.dtype, kernels: str = "auto") -> None:
    """Put layers over the device's products where a network has stored integers.

    Raises:
        DeviceError: ``kernels`` is ``metal``, and a product is missing or wrong.
    """
    bits = {module.bits for module in network.modules() if type(module) is QuantizedLinear}
    refused = {one: check(one, products, dtype) if kernels != "torch" else "" for one in sorted(bits)}
    for one, reason in refused.items():
        if reason and kernels == "metal":
            raise DeviceError(f"--kernels metal: {reason}; use --kernels torch.")
        if reason:
            _log.warning(
                "kernels for int%d: torch, which makes a float matrix at every call and is slow, because %s",
                one,
                reason,
            )
    if kernels == "torch":
        return
    replace_quantized(
        network,
        lambda layer: None if refused[layer.bits] else product_layer(layer, products, dtype),
    )
