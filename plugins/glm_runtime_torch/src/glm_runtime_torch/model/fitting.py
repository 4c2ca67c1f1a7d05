"""Whether a model fits into devices with a memory of their own, found before any weight is read.

What is not known to the byte (what the allocator and the libraries keep) is estimated from above.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch

from glm_core import OutOfMemoryError
from glm_core.records import Placement

from ..generation.runner import PREFILL_CHUNK
from ..network.kv_cache import MAX_SLOTS, compute_slot_bytes
from .device_map import DeviceMap, Parts, resolve_device_map, split
from .torch_model import TorchModel

# Of the memory that weights leave, what conversations beyond the first may take. The rest stays free for
# adapters that are added later and for other programs: one more slot is worth less than a failed request.
KV_SHARE = 0.8
# Of the free memory, what is left alone: allocators divide memory into pieces of which some stay unused.
HEADROOM_SHARE = 0.03
# What matrix libraries keep to compute in. They take it at their first product, after the cache was reserved,
# and do not say before how much it will be; so it is estimated from above.
LIBRARY_BYTES = 96 * 2**20
# Copies of all hidden states of a prompt that live at the same time: states, queries, angles, temporaries.
HIDDEN_COPIES = 6
# Where the context is ours to choose and does not fit whole, it is cut in such steps, down to a length.
# Coarse steps, because each one is a whole search; below the shortest a refusal helps more than a model that
# forgets what was said a moment ago.
CONTEXT_STEP = 256
SHORTEST_CONTEXT = 2048


@dataclass(frozen=True)
class Fit:
    """How a model goes into the memory that is free.

    Attributes:
        places: where everything goes.
        slots: sequences to answer at the same time.
        context_length: tokens that one request may use.
        wanted_context_length: tokens that it could have used with more memory.
        weight_bytes: device to the weights it takes.
        kv_bytes: device to its part of the KV cache.
        workspace_bytes: what computing takes on a device.
        free_bytes: device to its free memory.
    """

    places: DeviceMap
    slots: int
    context_length: int
    wanted_context_length: int
    weight_bytes: Mapping[torch.device, int]
    kv_bytes: Mapping[torch.device, int]
    workspace_bytes: int
    free_bytes: Mapping[torch.device, int]

    def describe(self) -> str:
        """Return a sentence for people: what goes where, device by device."""
        devices = [
            f"weights {_to_gb(self.weight_bytes[device])} GB + KV cache {_to_gb(self.kv_bytes[device])} GB "
            f"of {_to_gb(self.free_bytes[device])} GB free on {device}"
            for device in self.places.devices
        ]
        room = f"{self.slots} conversation{'s' if self.slots > 1 else ''} of {self.context_length} tokens"
        if self.context_length < self.wanted_context_length:
            room += f" (not {self.wanted_context_length}, for which there is no memory)"
        return f"{'; '.join(devices)}: {room}"


def fit(
    model: TorchModel,
    free_bytes: Mapping[torch.device, int],
    placement: Placement,
    *,
    device_map: Mapping[str, object] | None = None,
    places: DeviceMap | None = None,
) -> Fit:
    """Find where everything goes, how many conversations there is room for, and how long they may be.

    Args:
        model: its weights may be in memory or not.
        free_bytes: device to its free memory, in the order in which blocks are dealt out.
        placement: what the user asked for.
        device_map: a map that the user wrote.
        places: where a model already stands that cannot be moved; its weights take no more memory.

    Raises:
        OutOfMemoryError: it does not fit; names the bytes needed and free.
        ConfigError: the map does not suit the model.
        DeviceError: the map names other devices.
    """
    search = _Search(model, free_bytes, placement, is_there=places is not None)
    if device_map is not None:
        places = resolve_device_map(search.parts, device_map, list(free_bytes), next(iter(free_bytes)).type)
    least = placement.slots or 1
    refusal: OutOfMemoryError | None = None
    # A long context goes before many slots: whoever wants more slots can ask for a shorter context.
    for context in search.list_contexts():
        try:
            found = search.try_fit(places, least, context)
        except OutOfMemoryError as error:
            # The first refusal is of the length that was wanted; those of shorter ones would mislead.
            refusal = error if refusal is None else refusal
            continue
        for slots in range(search.count_slots_to_try(found), least, -1):
            try:
                return search.try_fit(places, slots, context)
            except OutOfMemoryError:  # fewer may fit
                continue
        return found
    assert refusal is not None
    raise refusal


def estimate_workspace_bytes(model: TorchModel, context_length: int, slots: int) -> int:
    """Return the bytes that prefill and decode take beside weights and KV cache, estimated from above."""
    itemsize = model.dtype.itemsize
    sizes = model.network.dimensions
    largest = max((parameter.numel() for parameter in model.network.blocks.parameters()), default=0)
    prompt = HIDDEN_COPIES * context_length * sizes.hidden_size * itemsize
    chunk = HIDDEN_COPIES * PREFILL_CHUNK * 4 * sizes.hidden_size * itemsize
    # In float32, a row for each slot; two more for the copies that choosing a token makes of one.
    logits = 4 * (slots + 2) * sizes.vocab_size
    return prompt + chunk + logits + 2 * largest * itemsize + LIBRARY_BYTES


class _Search:
    """What stays the same while numbers of conversations and lengths are tried."""

    def __init__(
        self,
        model: TorchModel,
        free_bytes: Mapping[torch.device, int],
        placement: Placement,
        *,
        is_there: bool,
    ) -> None:
        self.parts: Parts = model.parts
        self._model = model
        self._free = dict(free_bytes)
        self._placement = placement
        self._is_there = is_there
        self._sizes = model.network.dimensions

    def list_contexts(self) -> Iterator[int]:
        """Yield the lengths to try, longest first."""
        wanted = self._placement.context_length or self._model.info.context_length
        yield wanted
        if not self._placement.context_length:
            shortest = min(wanted, SHORTEST_CONTEXT)
            yield from range(wanted // CONTEXT_STEP * CONTEXT_STEP, shortest - 1, -CONTEXT_STEP)

    def count_slots_to_try(self, found: Fit) -> int:
        """Return how many conversations to try, if one was found to fit."""
        if self._placement.slots:
            return self._placement.slots
        each = sum(found.kv_bytes.values()) // found.slots
        left = sum(
            found.free_bytes[device] - found.weight_bytes[device] - found.workspace_bytes
            for device in found.places.devices
        )
        most = self._placement.kv_memory_bytes or int(KV_SHARE * left)
        return min(MAX_SLOTS, most // max(1, each))

    def try_fit(self, places: DeviceMap | None, slots: int, context: int) -> Fit:
        """Return where everything goes with so many conversations of that length.

        Raises:
            OutOfMemoryError: it does not fit.
        """
        capacity = context + self._model.adapter_positions
        layer = slots * compute_slot_bytes(
            1, self._sizes.num_kv_heads, capacity, self._sizes.head_dim, self._model.dtype
        )
        workspace = estimate_workspace_bytes(self._model, context, slots) + self._model.adapter_bytes
        usable = {device: int(size * (1 - HEADROOM_SHARE)) - workspace for device, size in self._free.items()}
        if places is None:
            try:
                places = split(self.parts, usable, layer)
            except OutOfMemoryError:
                raise self._make_error(slots, context, layer, workspace) from None
        weights = dict.fromkeys(self._free, 0)
        for unit in self.parts.units:
            weights[places.places[unit.name]] += 0 if self._is_there else unit.weight_bytes
        kv = dict.fromkeys(self._free, 0)
        for device in places.list_block_devices(self.parts):
            kv[device] += layer
        if any(weights[device] + kv[device] > usable[device] for device in places.devices):
            raise self._make_error(slots, context, layer, workspace, (weights, kv, places))
        wanted = self._placement.context_length or self._model.info.context_length
        return Fit(places, slots, context, wanted, weights, kv, workspace, self._free)

    def _make_error(
        self,
        slots: int,
        context: int,
        layer: int,
        workspace: int,
        settled: tuple[Mapping[torch.device, int], Mapping[torch.device, int], DeviceMap] | None = None,
    ) -> OutOfMemoryError:
        weights = 0 if self._is_there else sum(unit.weight_bytes for unit in self.parts.units)
        kv, devices = layer * len(self.parts.blocks), list(self._free)
        if settled is not None:  # a map that is not ours to change: the first device that is too small
            full = next(
                device
                for device in settled[2].devices
                if settled[0][device] + settled[1][device] + workspace
                > int(self._free[device] * (1 - HEADROOM_SHARE))
            )
            weights, kv, devices = settled[0][full], settled[1][full], [full]
        room = f"{slots} conversation{'s' if slots > 1 else ''} of {context} tokens"
        free = " and ".join(f"{_to_gb(self._free[device])} GB on {device}" for device in devices)
        needed = weights + kv + workspace * len(devices)
        return OutOfMemoryError(
            f"{self._model.info.name} needs {_to_gb(needed)} GB: {_to_gb(weights)} GB for weights, "
            f"{_to_gb(kv)} GB for the KV cache of {room}, {_to_gb(workspace * len(devices))} GB to compute "
            f"in; free are {free}. {self._suggest_ways(slots)}"
        )

    def _suggest_ways(self, slots: int) -> str:
        ways = []
        if not self._model.is_quantized and not self._is_there:
            ways.append("--quantize int4 or int8")
        ways.append("a smaller --context-length")
        if slots > 1:
            ways.append("fewer --slots")
        if next(iter(self._free)).type == "cuda" and not self._is_there:
            ways.append("more GPUs (--device cuda:0,1)")
        return f"Use {', '.join(ways[:-1])}{' or ' if len(ways) > 1 else ''}{ways[-1]}."


def _to_gb(size: int) -> str:
    return f"{size / 1e9:.1f}" if size >= 10**8 else f"{size / 1e9:.2f}"
