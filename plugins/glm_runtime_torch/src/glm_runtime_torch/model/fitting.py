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
from .device_map import DeviceMap, Parts, read_map, split
from .torch_model import TorchModel

# Of the memory that weights leave, what conversations beyond the first may take.
KV_SHARE = 0.8
# Of the free memory, what is left alone: allocators divide memory into pieces of which some stay unused.
HEADROOM_SHARE = 0.03
LIBRARY_BYTES = 96 * 2**20  # what matrix libraries keep to compute in
# Copies of all hidden states of a prompt that live at the same time: states, queries, angles, temporaries.
HIDDEN_COPIES = 6
# Where the context is ours to choose and does not fit whole, it is cut in such steps, down to a length.
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
            f"weights {_gb(self.weight_bytes[device])} GB + KV cache {_gb(self.kv_bytes[device])} GB of "
            f"{_gb(self.free_bytes[device])} GB free on {device}"
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
        places = read_map(search.parts, device_map, list(free_bytes), next(iter(free_bytes)).type)
    least = placement.slots or 1
    refusal: OutOfMemoryError | None = None
    for context in search.contexts():
        try:
            found = search.settle(places, least, context)
        except OutOfMemoryError as error:
            refusal = error if refusal is None else refusal
            continue
        for slots in range(search.most_slots(found), least, -1):
            try:
                return search.settle(places, slots, context)
            except OutOfMemoryError:  # fewer may fit
                continue
        return found
    assert refusal is not None
    raise refusal


def workspace_bytes(model: TorchModel, context_length: int, slots: int) -> int:
    """Return the bytes that prefill and decode take beside weights and KV cache, estimated from above."""
    itemsize = model.dtype.itemsize
    sizes = model.network.dimensions
    largest = max((parameter.numel() for parameter in model.network.blocks.parameters()), default=0)
    prompt = HIDDEN_COPIES * context_length * sizes.hidden_size * itemsize
    chunk = HIDDEN_COPIES * PREFILL_CHUNK * 4 * sizes.hidden_size * itemsize
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

    def contexts(self) -> Iterator[int]:
        """Yield the lengths to try, longest first."""
        wanted = self._placement.context_length or self._model.info.context_length
        yield wanted
        if not self._placement.context_length:
            shortest = min(wanted, SHORTEST_CONTEXT)
            yield from range(wanted // CONTEXT_STEP * CONTEXT_STEP, shortest - 1, -CONTEXT_STEP)

    def most_slots(self, found: Fit) -> int:
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

    def settle(self, places: DeviceMap | None, slots: int, context: int) -> Fit:
        """Return where everything goes with so many conversations of that length.

        Raises:
            OutOfMemoryError: it does not fit.
        """
        capacity = context + self._model.adapter_positions
        layer = slots * compute_slot_bytes(
            1, self._sizes.num_kv_heads, capacity, self._sizes.head_dim, self._model.dtype
        )
        workspace = workspace_bytes(self._model, context, slots) + self._model.adapter_bytes
        usable = {device: int(size * (1 - HEADROOM_SHARE)) - workspace for device, size in self._free.items()}
        if places is None:
            try:
                places = split(self.parts, usable, layer)
            except OutOfMemoryError:
                raise self._refusal(slots, context, layer, workspace) from None
        weights = dict.fromkeys(self._free, 0)
        for unit in self.parts.units:
            weights[places.places[unit.name]] += 0 if self._is_there else unit.weight_bytes
        kv = dict.fromkeys(self._free, 0)
        for device in places.blocks(self.parts):
            kv[device] += layer
        if any(weights[device] + kv[device] > usable[device] for device in places.devices):
            raise self._refusal(slots, context, layer, workspace, (weights, kv, places))
        wanted = self._placement.context_length or self._model.info.context_length
        return Fit(places, slots, context, wanted, weights, kv, workspace, self._free)

    def _refusal(
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
        free = " and ".join(f"{_gb(self._free[device])} GB on {device}" for device in devices)
        needed = weights + kv + workspace * len(devices)
        return OutOfMemoryError(
            f"{self._model.info.name} needs {_gb(needed)} GB: {_gb(weights)} GB for weights, {_gb(kv)} GB "
            f"for the KV cache of {room}, {_gb(workspace * len(devices))} GB to compute in; free are {free}. "
            f"{self._advice(slots)}"
        )

    def _advice(self, slots: int) -> str:
        ways = []
        if not self._model.is_quantized and not self._is_there:
            ways.append("--quantize int4 or int8")
        ways.append("a smaller --context-length")
        if slots > 1:
            ways.append("fewer --slots")
        if next(iter(self._free)).type == "cuda" and not self._is_there:
            ways.append("more GPUs (--device cuda:0,1)")
        return f"Use {', '.join(ways[:-1])}{' or ' if len(ways) > 1 else ''}{ways[-1]}."


def _gb(size: int) -> str:
    return f"{size / 1e9:.1f}" if size >= 10**8 else f"{size / 1e9:.2f}"
