"""``glm devices``: what a model can run on, and what ``auto`` would take."""

from __future__ import annotations

import dataclasses

from .._device_choice import require_one
from ..config import load_settings
from ..errors import ConfigError, DeviceError
from ..pairing import check_wishes
from ..plugins import get_default_host
from ..records import DeviceInfo
from ..survey import Survey, take_survey
from .options import make_command_parser, print_failed_plugins, print_json, print_table


def run(arguments: list[str]) -> int:
    """List the devices of every backend, and those that runtimes have of their own."""
    parser = make_command_parser("devices", "List the devices that a model can run on.")
    parser.add_argument("--json", action="store_true", help="as JSON")
    parsed = parser.parse_args(arguments)
    survey = take_survey(get_default_host())
    devices = [device for placer in survey.placers for device in placer.devices]
    print_failed_plugins(survey.host)
    chosen, answer = None, ""
    try:
        names = [device.name for device in list_taken_devices(survey, load_settings().runtime, "auto")]
        chosen = names[0] if len(names) == 1 else None
        answer = f"{' or '.join(names)}, as the model asks; glm plugins --model MODEL says which"
    except (ConfigError, DeviceError) as error:
        if not devices:
            raise
        answer = f"none; {error}"
    if parsed.json:
        print_json({"auto": chosen, "devices": [dataclasses.asdict(device) for device in devices]})
        return 0
    rows = []
    for device in devices:
        what = "; ".join(part for part in (device.label, device.reason) if part)
        what = what if device.available else f"{device.label} (not available: {device.reason})"
        total, free = _format_gigabytes(device.memory_bytes), _format_gigabytes(device.free_memory_bytes)
        rows.append((device.name, total, free, ", ".join(device.dtypes), what))
    print_table(("device", "memory", "free", "dtypes", "what it is"), rows)
    print(f"\n--device auto takes: {chosen or answer}")
    return 0


def list_taken_devices(survey: Survey, runtime: str, wanted: str) -> tuple[DeviceInfo, ...]:
    """Return the devices that ``wanted`` means; several of ``auto`` are for different kinds of models."""
    routes = check_wishes(survey, runtime, wanted)
    kinds = [set(getattr(route.placer.info, "kinds", ())) for route in routes]  # a runtime names none
    if len(routes) > 1 and not set.intersection(*kinds):
        return tuple(route.devices[0] for route in routes)
    return require_one(survey, routes).devices


def _format_gigabytes(size: int) -> str:
    return f"{size / 1e9:.1f} GB" if size else "?"
