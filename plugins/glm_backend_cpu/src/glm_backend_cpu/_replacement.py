"""Putting the kernel library's layers where a network has the runtime's or torch's."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import torch
from glm_runtime_torch.quantization import QuantizedEmbedding, QuantizedLayers, QuantizedLinear
from torch import Tensor, nn

from ._layers import (
    NativeEmbedding,
    NativeLinear,
    NativeQuantizedLinear,
    activation_group,
)
from ._native import Native
from ._norm import NativeLayerNorm
from ._packed import DENSE_FORMATS, PackedMatrix, pack_dense, pack_quantized

Slot = tuple[nn.Module, str]  # a parent and the attribute in which it holds a child


def use_kernels(
    network: nn.Module,
    native: Native,
    dtype: torch.dtype,
    act_group: int | None = None,
    *,
    read: Callable[[Sequence[nn.Module]], None] = lambda modules: None,
) -> None:
    """Replace linear layers, tied embeddings and norms.

    One matrix at a time is read, packed and its old form freed, the largest first, so that memory
    peaks at the result or at twice the largest matrix. Weights that want a gradient stay as they
    are: somebody trains them.

    Args:
        network: may be on the meta device where ``read`` reads its weights.
        native: the library.
        dtype: what embeddings come out in.
        act_group: of activations in front of quantised weights; see `activation_group`.
        read: reads the weights of some modules.
    """
    for slots in _matrices(network):
        read([getattr(parent, attribute) for parent, attribute in slots])
        _replace_matrix(slots, native, dtype, act_group)
    norms = [slot for slot in _slots(network) if type(getattr(*slot)) is nn.LayerNorm]
    read([getattr(*slot) for slot in norms])
    for parent, attribute in norms:
        norm = getattr(parent, attribute)
        if _simple(norm):
            setattr(parent, attribute, NativeLayerNorm(native, norm))


def use_layers(network: nn.Module, layers: QuantizedLayers) -> None:
    """Replace reference layers of quantised blocks by another backend's, one at a time."""
    for slots in _matrices(network):
        parent, attribute = slots[0]
        child = getattr(parent, attribute)
        if len(slots) > 1 or type(child) is not QuantizedLinear:
            continue
        bias = None if child.bias is None else child.bias.detach()
        made = layers.linear(
            child.weight.detach(), child.weight_scale.detach(), bias, child.bits, child.group_size
        )
        setattr(parent, attribute, made)


def _replace_matrix(slots: list[Slot], native: Native, dtype: torch.dtype, act_group: int | None) -> None:
    children = [getattr(parent, attribute) for parent, attribute in slots]
    linears = [child for child in children if isinstance(child, (nn.Linear, QuantizedLinear))]
    if not linears:
        return  # an embedding that no head shares is looked up as fast as it stands
    one = linears[0]
    bias = None if one.bias is None else one.bias.detach()
    head: NativeLinear
    if isinstance(one, QuantizedLinear):
        matrix = PackedMatrix(
            native,
            *pack_quantized(
                native, one.weight.detach(), one.weight_scale.detach(), bias, one.bits, one.group_size
            ),
        )
        head = NativeQuantizedLinear(matrix, activation_group(act_group, one.bits, one.group_size))
    else:
        matrix = PackedMatrix(native, *pack_dense(native, one.weight.detach(), bias))
        head = NativeLinear(matrix)
    for (parent, attribute), child in zip(slots, children, strict=True):
        table = isinstance(child, (nn.Embedding, QuantizedEmbedding))
        setattr(parent, attribute, NativeEmbedding(matrix, dtype) if table else head)


def _matrices(network: nn.Module) -> list[list[Slot]]:
    """Places of linear layers and embeddings, those of one shared weight together; the largest first."""
    kinds = (nn.Linear, nn.Embedding, QuantizedLinear, QuantizedEmbedding)
    shared: dict[int, list[Slot]] = {}
    for parent, attribute in _slots(network):
        child = getattr(parent, attribute)
        if type(child) in kinds and _packable(child.weight) and not getattr(child, "padding_idx", None):
            shared.setdefault(id(child.weight), []).append((parent, attribute))
    found = [slots for slots in shared.values() if _one_bias(slots)]
    return sorted(found, key=lambda slots: -getattr(*slots[0]).weight.numel())


def _one_bias(slots: list[Slot]) -> bool:
    """Whether the layers over one weight can share one packed matrix, which holds the bias too."""
    linears = [getattr(parent, attribute) for parent, attribute in slots]
    return len(slots) == 1 or all(getattr(layer, "bias", None) is None for layer in linears)


def _slots(network: nn.Module) -> Iterator[Slot]:
    for parent in network.modules():
        for attribute, _ in parent.named_children():
            yield parent, attribute


def _packable(weight: Tensor) -> bool:
    known = weight.dtype in DENSE_FORMATS or weight.dtype == torch.int8
    return known and weight.device.type in ("cpu", "meta") and not weight.requires_grad


def _simple(norm: nn.LayerNorm) -> bool:
    return len(norm.normalized_shape) == 1 and norm.bias is not None and not norm.weight.requires_grad
