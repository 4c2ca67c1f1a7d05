"""``glm devices``: what a model can run on, and what ``auto`` would take."""

from __future__ import annotations

import dataclasses

from ..errors import ConfigError, DeviceError
from ..plugins import default_host
from ..records import DeviceInfo
from ..routing import choose_devices
from ..survey import take_survey
from .options import command_parser, notice_failed, print_json, print_table


def run(arguments: list[str]) -> int:
    """List the devices of every backend, and those that runtimes have of their own."""
    parser = command_parser("devices", "List the devices that a model can run on.")
    parser.add_argument("--json", action="store_true", help="as JSON")
    parsed = parser.parse_args(arguments)
    survey = take_survey(default_host())
    devices = [device for placer in survey.placers() for device in placer.devices]
    notice_failed(survey.host)
    chosen, refusal = None, ""
    try:
        chosen = choose_devices(survey, "auto")[1][0].name
    except (ConfigError, DeviceError) as error:
        if not devices:
            raise
        refusal = str(error)
    if parsed.json:
        print_json({"auto": chosen, "devices": [dataclasses.asdict(device) for device in devices]})
        return 0
    print_table(
        ("device", "memory", "free", "dtypes", "what it is"),
        [
            (
                device.name,
                _gigabytes(device.memory_bytes),
                _gigabytes(device.free_memory_bytes),
                ", ".join(device.dtypes),
                _what_it_is(device),
            )
            for device in devices
        ],
    )
    print(f"\n--device auto takes: {chosen or f'none; {refusal}'}")
    return 0


def _what_it_is(device: DeviceInfo) -> str:
    if device.available:
        return "; ".join(part for part in (device.label, device.reason) if part)
    return f"{device.label} (not available: {device.reason})"


def _gigabytes(size: int) -> str:
    return f"{size / 1e9:.1f} GB" if size else "?"
