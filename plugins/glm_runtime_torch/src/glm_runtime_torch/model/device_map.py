"""Which part of a network goes on which device: the automatic split, and maps that users write.

A unit is what is on one device as a whole: the embedding table, a block, the final norm, the head.
Units that share weights are on one device together.
"""

from __future__ import annotations

import bisect
import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from glm_core import ConfigError, DeviceError, OutOfMemoryError

from ..network.language_model import LanguageModel
from ..network.parameters import list_unique_parameters
from ..network.route import DeviceRoute, Move, move_tensor


@dataclass(frozen=True)
class NetworkUnit:
    """A part of a network that is not divided.

    Attributes:
        name: of its module in the network, as in checkpoints.
        weight_bytes: of its weights; weights that several units share count in the first.
        layer: number of the block, or ``None``.
    """

    name: str
    weight_bytes: int
    layer: int | None = None


@dataclass(frozen=True)
class Parts:
    """The units of a network.

    Attributes:
        units: in the order in which hidden states pass them.
        together: names of units that share weights.
    """

    units: tuple[NetworkUnit, ...]
    together: tuple[tuple[str, ...], ...]

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the units."""
        return tuple(unit.name for unit in self.units)

    @property
    def blocks(self) -> tuple[NetworkUnit, ...]:
        """The transformer blocks in order."""
        return tuple(unit for unit in self.units if unit.layer is not None)


@dataclass(frozen=True)
class DeviceMap:
    """A device for every unit of a network.

    Attributes:
        places: unit name to its device, in the order of the units.
    """

    places: Mapping[str, torch.device]

    @property
    def devices(self) -> tuple[torch.device, ...]:
        """Every device that holds something, in the order of the units."""
        return tuple(dict.fromkeys(self.places.values()))

    def find_device(self, name: str) -> torch.device:
        """Return the device of a module or parameter by its full name; others go with the first unit."""
        found = next((each for each in _list_ancestors(name) if each in self.places), None)
        return next(iter(self.places.values())) if found is None else self.places[found]

    def move(self, network: nn.Module) -> None:
        """Move a network whose weights are in memory, each unit to its device."""
        for name, device in self.places.items():
            network.get_submodule(name).to(device)

    def list_block_devices(self, parts: Parts) -> tuple[torch.device, ...]:
        """Return the device of each block."""
        return tuple(self.places[unit.name] for unit in parts.blocks)

    def make_route(self, parts: Parts, *, move: Move = move_tensor) -> DeviceRoute | None:
        """Return the way of hidden states; ``None`` if everything is on one device."""
        if len(self.devices) == 1:
            return None
        embedding, *_, norm, head = (self.places[unit.name] for unit in parts.units)
        return DeviceRoute(embedding, self.list_block_devices(parts), norm, head, move=move)


def make_single_device_map(parts: Parts, device: torch.device) -> DeviceMap:
    """Return the map that puts everything on one device."""
    return DeviceMap(dict.fromkeys(parts.names, device))


def find_parts(network: LanguageModel, sizes: Mapping[str, int] | None = None) -> Parts:
    """Return the units of a network, which may be on the meta device.

    Args:
        network: a language model.
        sizes: parameter name to bytes, where they are not the tensor's own.
    """
    names = network.part_names
    layers = {names.name_block(layer): layer for layer in range(network.dimensions.num_layers)}
    unit_names = (names.embedding, *layers, names.final_norm, names.head)
    weights = dict.fromkeys(unit_names, 0)
    if sizes is None:
        sizes = {name: value.nbytes for name, value in list_unique_parameters(network)}
    for name, size in sizes.items():
        weights[_find_unit(name, unit_names)] += size
    units = tuple(NetworkUnit(name, weights[name], layers.get(name)) for name in unit_names)
    return Parts(units, _find_sharing({name: network.get_submodule(name) for name in unit_names}))


def find_device_map(network: LanguageModel) -> DeviceMap:
    """Return where the units of a network in memory are now."""
    return DeviceMap(
        {name: _list_tensors(network.get_submodule(name))[0].device for name in find_parts(network).names}
    )


def split(
    parts: Parts,
    free_bytes: Mapping[torch.device, int],
    layer_bytes: int = 0,
) -> DeviceMap:
    """Divide a network so that the fullest device is as little full as possible.

    Blocks stay in order, each device takes a row of them. The embedding, the norm and what shares weights
    with them stand on the first device that has room for them; a head of its own stands there as well.

    Args:
        parts: of the network.
        free_bytes: device to what may be used of it, in the order in which blocks are dealt out.
        layer_bytes: what each block needs beside its weights: its part of the KV cache.

    Raises:
        OutOfMemoryError: no division fits; names the bytes needed and free.
    """
    blocks = [unit.weight_bytes + layer_bytes for unit in parts.blocks]
    rest = sum(unit.weight_bytes for unit in parts.units if unit.layer is None)
    devices, free = list(free_bytes), [max(0, size) for size in free_bytes.values()]
    for home in range(len(devices)):
        base = [rest if index == home else 0 for index in range(len(devices))]
        counts = _balance_blocks(blocks, base, free)
        if counts is not None:
            dealt = [device for device, count in zip(devices, counts, strict=True) for _ in range(count)]
            return DeviceMap(
                {
                    unit.name: devices[home] if unit.layer is None else dealt[unit.layer]
                    for unit in parts.units
                }
            )
    there = ", ".join(f"{size / 1e9:.2f} GB on {device}" for device, size in free_bytes.items())
    raise OutOfMemoryError(
        f"the model needs {(sum(blocks) + rest) / 1e9:.2f} GB, and no division of its {len(blocks)} blocks "
        f"fits into {there or 'no device'}"
    )


def resolve_device_map(
    parts: Parts, written: Mapping[str, object], devices: Sequence[torch.device], device_type: str = "cuda"
) -> DeviceMap:
    """Return a map that a user wrote, checked against the network.

    Args:
        parts: of the network.
        written: module name to a device: a number, ``"cuda:1"`` or a ``torch.device``. A name stands for
            all that is below it, ``""`` for everything; the longest name wins.
        devices: those that may be used.
        device_type: what a bare number is a number of.

    Raises:
        ConfigError: a name is unknown, a unit is missing, or a device cannot be read.
        DeviceError: a device is none of ``devices``, or units that share weights stand on several.
    """
    _refuse_unknown(parts, written)
    places: dict[str, torch.device] = {}
    for name, value in written.items():
        device = _parse_device(name, value, device_type)
        # A device without a number is the first of its type: "cuda" is cuda:0, cpu:0 is "cpu".
        same = (each for each in devices if (each.type, each.index or 0) == (device.type, device.index or 0))
        allowed = next(same, None)
        if allowed is None:
            there = ", ".join(map(str, devices))
            raise DeviceError(
                f"device_map puts {name or 'everything'!r} on {device}, which was not asked for; "
                f"there are: {there}"
            )
        places[name] = allowed
    found = {unit: _find_longest_name(unit, places) for unit in parts.names}
    missing = [unit for unit, device in found.items() if device is None]
    if missing:
        raise ConfigError(
            f"device_map leaves out {_format_names(missing)}; give each a device, or add a key ''"
        )
    whole = {unit: device for unit, device in found.items() if device is not None}
    for group in parts.together:
        if len({whole[name] for name in group}) > 1:
            where = " and ".join(f"{name} on {whole[name]}" for name in group)
            raise DeviceError(f"device_map puts {where}, but they share one table; put them on one device")
    return DeviceMap(whole)


def _find_unit(name: str, units: Sequence[str]) -> str:
    """Return the unit that a parameter belongs to; what is in none (a prefix encoder) goes with the first."""
    return next((each for each in _list_ancestors(name) if each in units), units[0])


def _find_sharing(modules: Mapping[str, nn.Module]) -> tuple[tuple[str, ...], ...]:
    owners: dict[int, list[str]] = {}
    for name, module in modules.items():
        for tensor in _list_tensors(module):
            owners.setdefault(id(tensor), []).append(name)
    return tuple(dict.fromkeys(tuple(names) for names in owners.values() if len(names) > 1))


def _list_tensors(module: nn.Module) -> tuple[Tensor, ...]:
    return (*module.parameters(), *module.buffers())


def _balance_blocks(blocks: Sequence[int], base: Sequence[int], free: Sequence[int]) -> list[int] | None:
    """Return how many blocks each device takes, in order; ``None`` if they do not fit.

    The share of the fullest device is the base and some row of blocks over the free bytes of one of
    them, so the smallest share that works is found among these by bisection. For a given share, to
    fill each device in turn as far as it goes is as good as any way.
    """
    sums = [0]
    for size in blocks:
        sums.append(sums[-1] + size)
    shares = sorted(  # as whole numbers, since bytes of large devices are close to what a float tells apart
        {
            (load + stop - start, size)
            for load, size in zip(base, free, strict=True)
            for index, start in enumerate(sums)
            for stop in sums[index:]
            if size and load + stop - start <= size
        },
        key=lambda share: share[0] / share[1],
    )
    works = bisect.bisect_left(
        shares, True, key=lambda share: _deal_blocks(sums, base, free, share) is not None
    )
    return _deal_blocks(sums, base, free, shares[works]) if works < len(shares) else None


def _deal_blocks(
    sums: Sequence[int], base: Sequence[int], free: Sequence[int], share: tuple[int, int]
) -> list[int] | None:
    """Deal blocks out in order, no device fuller than a share (numerator, denominator) of its free bytes."""
    counts, done = [], 0
    for load, size in zip(base, free, strict=True):
        room = share[0] * size // share[1] - load
        if room < 0:
            return None
        stop = bisect.bisect_right(sums, sums[done] + room) - 1
        counts.append(stop - done)
        done = stop
    return counts if done == len(sums) - 1 else None


def _refuse_unknown(parts: Parts, written: Mapping[str, object]) -> None:
    known = list(dict.fromkeys(name for unit in parts.names for name in _list_ancestors(unit)))
    for name in written:
        if name and name not in known and not any(name.startswith(f"{unit}.") for unit in parts.names):
            near = difflib.get_close_matches(name, known, n=1)
            instead = f"did you mean {near[0]!r}?" if near else f"there are: {_format_names(parts.names)}"
            raise ConfigError(f"device_map names {name!r}, which the model has not; {instead}")
        inside = next((unit for unit in parts.names if name.startswith(f"{unit}.")), None)
        if inside is not None:
            raise ConfigError(f"device_map names {name!r}; {inside!r} stands on one device as a whole")


def _list_ancestors(name: str) -> list[str]:
    """Return a module's name and those of all modules that hold it, the longest first."""
    parts = name.split(".")
    return [".".join(parts[:count]) for count in range(len(parts), 0, -1)]


def _find_longest_name(unit: str, places: Mapping[str, torch.device]) -> torch.device | None:
    return next((places[name] for name in [*_list_ancestors(unit), ""] if name in places), None)


def _parse_device(name: str, value: object, device_type: str) -> torch.device:
    try:
        if isinstance(value, int) and not isinstance(value, bool):
            return torch.device(device_type, value)
        if isinstance(value, (str, torch.device)):
            return torch.device(device_type, int(str(value))) if str(value).isdigit() else torch.device(value)
    except RuntimeError:
        pass
    raise ConfigError(
        f"device_map puts {name or 'everything'!r} on {value!r}; expected a number, a name such as "
        f"'{device_type}:1', or a torch.device"
    )


def _format_names(names: Sequence[str]) -> str:
    shown = ", ".join(names[:4])
    return shown if len(names) <= 4 else f"{shown} and {len(names) - 4} more"
