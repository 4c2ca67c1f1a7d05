"""A network's parameters: counting them, naming shared ones once, replacing them."""

from __future__ import annotations

from torch import Tensor, nn

# Scales of stored integers, and what decides between experts, whatever is computed in.
KEPT_IN_FLOAT32 = ("weight_scale", "e_score_correction_bias")


def count_parameters(network: nn.Module) -> int:
    """Weights of a network, tied ones once."""
    return sum(parameter.numel() for parameter in network.parameters())


def resident_bytes(network: nn.Module) -> int:
    """Memory of a network's parameters and buffers, shared ones once."""
    tensors = {tensor.data_ptr(): tensor.nbytes for tensor in (*network.parameters(), *network.buffers())}
    return sum(tensors.values())


def unique_parameters(network: nn.Module) -> list[tuple[str, Tensor]]:
    """Every parameter once under its first name; a tied head is the embedding."""
    return list(network.named_parameters(remove_duplicate=True))


def replace_parameter(network: nn.Module, old: Tensor, value: Tensor) -> None:
    """Put ``value`` wherever ``old`` is, so that tied weights stay tied."""
    parameter = nn.Parameter(value, requires_grad=False)
    for module in network.modules():
        for name, current in list(module._parameters.items()):
            if current is old:
                module._parameters[name] = parameter
