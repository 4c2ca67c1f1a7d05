"""Putting a backend's layers where a network on its device has reference layers over stored integers."""

from __future__ import annotations

from collections.abc import Callable

from torch import nn

from ..network.places import find_places
from .layers import QuantizedLinear


def replace_quantized(network: nn.Module, make: Callable[[QuantizedLinear], nn.Module | None]) -> None:
    """Replace reference layers one at a time, so that memory holds two forms of one layer at most.

    Args:
        network: its weights are where they will be used.
        make: a module that does what a layer does; ``None`` leaves the layer as it is. A head that shares
            its integers with an embedding is among them: what shares them on keeps them once.
    """
    for place in find_places(network, lambda module: type(module) is QuantizedLinear):
        made = make(place.module)
        if made is not None:
            place.replace(made)
