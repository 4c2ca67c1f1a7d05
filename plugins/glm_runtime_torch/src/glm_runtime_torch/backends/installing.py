"""Putting the layers of a `KernelSet` into a network, one matrix at a time."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any

from torch import nn

from ..model.torch_model import TorchModel
from ..network.parameters import copy_sharing_memory
from ..network.places import Place, find_places
from ..quantization.layers import QuantizedEmbedding, QuantizedLinear
from .kernel_set import KernelSet

LINEARS = (nn.Linear, QuantizedLinear)
TABLES = (nn.Embedding, QuantizedEmbedding)
NORMS = (nn.LayerNorm, nn.RMSNorm)
# Of the free memory, what a second form of a borrowed model's weights may take: the owner, who may train or
# save it, wants memory as well, and the KV cache takes its part of what is left.
SECOND_FORM_SHARE = 0.5

_log = logging.getLogger("glm")

Read = Callable[[Sequence[nn.Module]], None]


def install_kernels(network: nn.Module, kernels: KernelSet, *, read: Read = lambda modules: None) -> None:
    """Replace layers and norms by those that a backend makes.

    One matrix at a time is read, replaced and its old form freed, the largest first: memory peaks at
    the result or at twice the largest matrix. Only layers of exactly the runtime's and torch's own classes
    are replaced. Weights that want a gradient stay as they are: somebody trains them.

    Args:
        network: its weights are on their device, or on the meta device where ``read`` reads them.
        kernels: make the new layers.
        read: reads the weights of some modules.
    """
    for places in _group_by_matrix(network):
        read([place.module for place in places])
        _replace_matrix(places, kernels)
    norms = find_places(network, lambda module: type(module) in NORMS and not _is_trained(module))
    read([place.module for place in norms])
    for place in norms:
        _replace(place, kernels.make_norm(place.module))


def borrow_network(model: TorchModel, kernels: KernelSet, free_bytes: int) -> None:
    """Put kernels into a copy of the modules of a model that somebody else holds.

    The copy shares the weights; the owner's layers stay as they are, since he may want to train or save
    them. Kernels that want weights in another form hold these twice, so where there is no memory for that
    the model answers with its own layers.

    Args:
        model: with ``is_borrowed``.
        kernels: make the new layers.
        free_bytes: of the devices.
    """
    model.network = copy_sharing_memory(model.network).eval()
    if not kernels.replaces_borrowed:
        return
    second = kernels.count_second_form_bytes(model.network)
    if second > SECOND_FORM_SHARE * free_bytes:
        _log.warning(
            "kernels: the model's own layers, which are slow; another form of its weights needs %.1f GB. "
            "glm_core.load() and glm run need no second form.",
            second / 1e9,
        )
        return
    install_kernels(model.network, kernels)


def _group_by_matrix(network: nn.Module) -> list[list[Place]]:
    """Return the places of layers and tables, those over one weight together; the largest first."""
    groups: dict[int, list[Place]] = {}
    for place in find_places(network, lambda module: type(module) in (*LINEARS, *TABLES)):
        if not _is_trained(place.module):
            # By the weight itself: a tied head is the embedding's own tensor, and both must change together.
            groups.setdefault(id(place.module.weight), []).append(place)
    # The largest first: while little else is in memory, its two forms raise no peak above the result.
    return sorted(groups.values(), key=lambda places: -places[0].module.weight.numel())


def _replace_matrix(places: list[Place], kernels: KernelSet) -> None:
    linears = [place for place in places if type(place.module) in LINEARS]
    tables = [place for place in places if type(place.module) in TABLES]
    if len(linears) > 1 and any(place.module.bias is not None for place in linears):
        return  # layers over one matrix become one layer, which cannot have several biases
    table, head = None, None
    if tables and linears:
        table, head = kernels.make_tied_table(tables[0].module, linears[0].module)
    elif linears:
        head = kernels.make_any_linear(linears[0].module)
    else:
        table = kernels.make_embedding(tables[0].module)
    for place in tables:
        _replace(place, table)
    for place in linears:
        _replace(place, head)


def _replace(place: Place, module: nn.Module | None) -> None:
    if module is not None:
        place.replace(module)


def _is_trained(module: Any) -> bool:
    return module.weight is not None and bool(module.weight.requires_grad)
