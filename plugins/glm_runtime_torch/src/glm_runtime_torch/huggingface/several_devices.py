"""Loading a transformers model of ours over several devices, as the original's ``load_model_on_gpus``."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn

from ..architectures.chatglm import ChatGLM
from ..model.device_map import DeviceMap, Parts, find_parts, resolve_device_map, split
from ..network.empty_weights import build_without_weights
from ..network.kv_cache import compute_slot_bytes
from ..network.parameters import list_unique_parameters
from ..network.route import Move, move_tensor
from ..quantization import expect_stored_form
from .configuration import ChatGLMConfig
from .modeling import ChatGLMForConditionalGeneration

# What computing takes on each device beside weights and KV cache: a round number above what
# `glm_runtime_torch.model.fitting` estimates for one conversation of ChatGLM-6B, since a program of
# transformers does not say before how long its inputs and batches will be.
WORKSPACE_BYTES = 600 * 2**20
CONFIG_SETTINGS = frozenset(
    {"cache_dir", "revision", "token", "local_files_only", "subfolder", "force_download"}
)

Put = Callable[[nn.Module, torch.device], object]


def put_module(module: nn.Module, device: torch.device) -> None:
    """Move a module's weights to a device; weights that are shared stay shared."""
    module.to(device)


def load_on_devices(
    checkpoint_path: str,
    free_bytes: Mapping[torch.device, int],
    device_map: Mapping[str, object] | None = None,
    *,
    put: Put = put_module,
    move: Move = move_tensor,
    **settings: Any,
) -> ChatGLMForConditionalGeneration:
    """Load in half precision and divide the model; the map is checked before any weight is read.

    Args:
        checkpoint_path: directory or hub id.
        free_bytes: device to its free memory, in the order in which blocks are dealt out.
        device_map: the user's own map; see `glm_runtime_torch.model.device_map.resolve_device_map`.
        put: moves a module to a device.
        move: copies a tensor to a device, at every hop of the hidden states.
        **settings: passed on to ``from_pretrained``.

    Raises:
        OutOfMemoryError: no division fits.
        ConfigError: the map does not suit the model.
        DeviceError: the map names other devices.
    """
    config = ChatGLMConfig.from_pretrained(
        checkpoint_path, **{name: value for name, value in settings.items() if name in CONFIG_SETTINGS}
    )
    parts = _describe_parts(config)
    places = (
        _split(parts, config, free_bytes)
        if device_map is None
        else resolve_device_map(parts, device_map, list(free_bytes), next(iter(free_bytes)).type)
    )
    model = ChatGLMForConditionalGeneration.from_pretrained(
        checkpoint_path, **{"dtype": torch.float16, **settings}
    )
    model = model.half().eval()
    for name, device in places.places.items():
        put(model.get_submodule(name), device)
    if model.prefix_encoder is not None:
        put(model.prefix_encoder, places.places[parts.units[0].name])
    model.network.route = places.make_route(parts, move=move)
    return model


def _describe_parts(config: ChatGLMConfig) -> Parts:
    """Return the units of the network that a configuration describes, in half precision."""
    with build_without_weights():
        network = ChatGLM(config.make_network_config())
        expect_stored_form(network, config.to_published())
    sizes = {
        name: parameter.numel() * (2 if parameter.is_floating_point() else 1)
        for name, parameter in list_unique_parameters(network)
    }
    return find_parts(network, sizes)


def _split(parts: Parts, config: ChatGLMConfig, free_bytes: Mapping[torch.device, int]) -> DeviceMap:
    sizes = config.make_network_config().dimensions
    layer = compute_slot_bytes(1, sizes.num_kv_heads, sizes.context_length, sizes.head_dim, torch.float16)
    return split(parts, {device: size - WORKSPACE_BYTES for device, size in free_bytes.items()}, layer)
