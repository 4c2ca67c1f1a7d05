"""The KV cache of one model: as many slots as are wanted, or as its memory takes."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from ..network.attention import DecodeAttention
from ..network.kv_cache import KVCache, choose_slots, compute_slot_bytes
from ..network.language_model import Dimensions


def reserve_cache(
    dimensions: Dimensions,
    capacity: int,
    dtype: torch.dtype,
    device: torch.device,
    *,
    slots: int = 0,
    memory_bytes: int = 0,
    layer_devices: Sequence[torch.device] | None = None,
    attention: DecodeAttention | None = None,
) -> KVCache:
    """Reserve a KV cache.

    Args:
        dimensions: of the network.
        capacity: positions of a slot: the context, and the longest adapter in front of it.
        dtype: of keys and values.
        device: where they are.
        slots: sequences to answer at the same time; 0 = as many as the memory takes.
        memory_bytes: memory that all slots may take together; 0 = no limit.
        layer_devices: where those of each layer are, if not all are on ``device``.
        attention: the backend's own decode attention.

    Raises:
        OutOfMemoryError: not even one conversation fits.
    """
    layers, heads, head_dim = dimensions.num_layers, dimensions.num_kv_heads, dimensions.head_dim
    slot_bytes = compute_slot_bytes(layers, heads, capacity, head_dim, dtype)
    return KVCache(
        num_layers=layers,
        num_slots=choose_slots(slots, slot_bytes, memory_bytes),
        num_kv_heads=heads,
        capacity=capacity,
        head_dim=head_dim,
        dtype=dtype,
        device=device,
        layer_devices=layer_devices,
        attention=attention,
    )
