"""What ``--device-map`` says: which device each part of a network goes on."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from .config import expand
from .descriptions import DeviceInfo
from .errors import ConfigError
from .isolation import format_value

DeviceMap = Mapping[str, str | int]
"""Module name, as in the checkpoint's network, to a device's name or its number."""


def read_device_map(text: str) -> dict[str, str | int]:
    """Return the map that a JSON object, or a file that holds one, describes.

    Raises:
        ConfigError: it is neither, or maps something else than names to devices.
    """
    origin = "--device-map"
    if not text.lstrip().startswith("{"):
        path = expand(text)
        origin = f"--device-map {path}"
        try:
            text = path.read_text("utf-8-sig")
        except (OSError, ValueError) as error:  # not there, not readable, or not UTF-8
            raise ConfigError(
                f"--device-map {str(path)!r} is neither a JSON object nor a file that can be read: {error}"
            ) from error
    try:
        content: Any = json.loads(text)
    except (ValueError, RecursionError) as error:  # no JSON, or nested too deeply
        raise ConfigError(f"{origin} is no valid JSON: {error}") from error
    return check_entries(origin, content)


def check_entries(origin: str, content: Any) -> dict[str, str | int]:
    """Return a map of names to devices; refuse all else, such as the ``"auto"`` of other libraries."""
    if not isinstance(content, Mapping) or not content:
        raise ConfigError(
            f'{origin}: expected an object such as {{"": "cuda:0"}}, got {format_value(content)}'
        )
    for name, device in content.items():
        if not isinstance(name, str):
            raise ConfigError(f"{origin} has the key {format_value(name)}; expected a module's name")
        if isinstance(device, bool) or not isinstance(device, (str, int)):
            what = f"{name!r} on {format_value(device)}"
            raise ConfigError(f"{origin} puts {what}; expected a device's name or number")
    return dict(content)


def list_mapped_devices(device_map: DeviceMap) -> str:
    """Return what ``--device`` means where only the map says it; ``auto`` if the map has numbers alone."""
    names = list(dict.fromkeys(device for device in device_map.values() if isinstance(device, str)))
    kinds = {name.partition(":")[0] for name in names}
    if len(kinds) != 1 or len(names) != len(set(device_map.values())):
        return "auto"
    indices = [name.partition(":")[2] for name in names]
    return ",".join(names) if not all(indices) else f"{kinds.pop()}:{','.join(indices)}"


def check_device_map(device_map: DeviceMap, devices: tuple[DeviceInfo, ...]) -> None:
    """Refuse a map that names another device than the one that the model runs on.

    Over several devices the backend checks the map itself, because it knows the network's parts.

    Raises:
        ConfigError: with one device, the map puts something elsewhere.
    """
    if len(devices) > 1:
        return
    (device,) = devices
    index = device.name.partition(":")[2]
    number = int(index) if index.isdecimal() else 0
    accepted = {device.name, f"{device.type}:{number}", number, *([device.type] if number == 0 else [])}
    for name, value in device_map.items():
        if value not in accepted:
            what = f"{repr(name) if name else 'everything'} on {format_value(value)}"
            advice = "name all devices with --device, such as cuda:0,1, or leave the map out"
            raise ConfigError(f"device_map puts {what}, but the model runs on {device.name} alone; {advice}")
