"""A network's parameters: counting them, naming shared ones once, replacing them."""

from __future__ import annotations

import copy
from typing import TypeVar, cast

from torch import Tensor, nn

ModuleT = TypeVar("ModuleT", bound=nn.Module)

# Scales of stored integers, and what decides between experts, whatever is computed in.
KEPT_IN_FLOAT32 = ("weight_scale", "e_score_correction_bias")


def count_parameters(network: nn.Module) -> int:
    """Return how many weights a network has, tied ones counted once."""
    return sum(parameter.numel() for parameter in network.parameters())


def count_resident_bytes(network: nn.Module) -> int:
    """Return the bytes of a network's parameters and buffers, shared ones counted once."""
    tensors = {tensor.data_ptr(): tensor.nbytes for tensor in (*network.parameters(), *network.buffers())}
    return sum(tensors.values())


def copy_sharing_memory(module: ModuleT) -> ModuleT:
    """Return the same modules again over the same memory: what is replaced in the copy stays in the original.

    Its parameters want no gradient; what shared a parameter shares it in the copy.
    """
    copies: dict[int, nn.Module] = {}
    parameters: dict[int, nn.Parameter] = {}

    def freeze(one: nn.Parameter | None) -> nn.Parameter | None:
        if one is not None and id(one) not in parameters:
            parameters[id(one)] = nn.Parameter(one.detach(), requires_grad=False)
        return None if one is None else parameters[id(one)]

    def copy_module(one: nn.Module) -> nn.Module:
        if id(one) not in copies:
            twin = copies[id(one)] = copy.copy(one)
            twin._parameters = {name: freeze(value) for name, value in one._parameters.items()}
            twin._buffers = dict(one._buffers)
            twin._modules = {
                name: None if child is None else copy_module(child) for name, child in one._modules.items()
            }
        return copies[id(one)]

    return cast("ModuleT", copy_module(module))


def list_unique_parameters(network: nn.Module) -> list[tuple[str, Tensor]]:
    """Return every parameter once under its first name; a tied head is the embedding."""
    return list(network.named_parameters(remove_duplicate=True))


def list_aliases(network: nn.Module) -> dict[str, list[str]]:
    """Return the other names of each tied parameter, by its first name."""
    names: dict[int, list[str]] = {}
    for name, parameter in network.named_parameters(remove_duplicate=False):
        names.setdefault(id(parameter), []).append(name)
    return {first: others for first, *others in names.values() if others}


def replace_parameter(network: nn.Module, old: Tensor, value: Tensor) -> None:
    """Put ``value`` wherever ``old`` is, so that tied weights stay tied."""
    parameter = nn.Parameter(value, requires_grad=False)
    for module in network.modules():
        for name, current in list(module._parameters.items()):
            if current is old:
                module._parameters[name] = parameter
