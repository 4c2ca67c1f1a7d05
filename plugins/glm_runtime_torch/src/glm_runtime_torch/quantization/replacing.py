"""Putting a backend's layers where a network on its device has reference layers over stored integers."""

from __future__ import annotations

from collections.abc import Callable

from torch import nn

from .layers import QuantizedLinear
from .network import Place


def replace_quantized(network: nn.Module, make: Callable[[QuantizedLinear], nn.Module | None]) -> None:
    """Replace reference layers one at a time, so that memory holds two forms of one layer at most.

    Args:
        network: its weights are where they will be used.
        make: a module that does what a layer does; ``None`` leaves the layer as it is. A head that shares
            its integers with an embedding is among them: what shares them on keeps them once.
    """
    for place in _places(network):
        made = make(place.module)
        if made is not None:
            place.put(made)


def _places(network: nn.Module) -> list[Place]:
    return [
        Place(f"{name}.{attribute}".lstrip("."), parent, attribute)
        for name, parent in network.named_modules()
        for attribute, child in parent.named_children()
        if type(child) is QuantizedLinear
    ]
