"""Putting chosen kernels' layers where a network has the runtime's or torch's, one matrix at a time."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from glm_runtime_torch.quantization import QuantizedEmbedding, QuantizedLayers, QuantizedLinear
from torch import nn

Slot = tuple[nn.Module, str]  # a parent and the attribute in which it holds a child


def replace_integers(network: nn.Module, layers: QuantizedLayers) -> None:
    """Replace the runtime's layers over stored integers; a table and the head over it stay one matrix.

    Args:
        network: its weights are where they will be used.
        layers: makes the new ones.
    """
    tables = {
        id(getattr(*slot).weight): slot
        for slot in _slots(network)
        if type(getattr(*slot)) is QuantizedEmbedding
    }
    for parent, attribute in list(_slots(network)):
        child = getattr(parent, attribute)
        if type(child) is not QuantizedLinear:
            continue
        table = tables.get(id(child.weight))
        if table is not None and child.bias is None:
            embedding, head = layers.tied_table(
                child.weight, child.weight_scale, child.bits, child.group_size
            )
            setattr(*table, embedding)
            setattr(parent, attribute, head)
            continue
        bias = None if child.bias is None else child.bias.detach()
        made = layers.linear(child.weight, child.weight_scale, bias, child.bits, child.group_size)
        if not isinstance(made, QuantizedLinear):
            setattr(parent, attribute, made)


def replace_plain(network: nn.Module, dtype: torch.dtype) -> None:
    """Replace linear layers and norms over weights of ``dtype`` by Triton's, which share the weights.

    Weights that want a gradient stay as they are: somebody trains them.
    """
    from ._layers import TritonLinear
    from ._norm import TritonLayerNorm

    for parent, attribute in list(_slots(network)):
        child = getattr(parent, attribute)
        weight = getattr(child, "weight", None)
        if weight is None or weight.dtype != dtype or weight.requires_grad:
            continue
        if type(child) is nn.Linear:
            bias = None if child.bias is None else child.bias.detach()
            setattr(parent, attribute, TritonLinear.from_dense(weight, bias))
        elif type(child) is nn.LayerNorm and len(child.normalized_shape) == 1 and child.bias is not None:
            setattr(parent, attribute, TritonLayerNorm(child))


def _slots(network: nn.Module) -> Iterator[Slot]:
    for parent in network.modules():
        for attribute, _ in parent.named_children():
            yield parent, attribute
