"""Decide who keeps a name that two plugins claim, by one rule, and say so.

A name of this project's own packages (``cli``, ``cpu``, ``demo``) stays with that package where it
is installed. Any other frontend, trainer or model is taken from the plugin whose own name sorts
first, and devices of one type are asked for in the order of the backends' priorities, then of the
plugins' names. What two *packages* call their plugins is decided earlier, where plugins are loaded.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from typing import Literal

from .plugins import PluginHost
from .records import BackendInfo, FrontendInfo, ModelCard, TrainerInfo

What = Literal["device", "frontend", "model", "trainer"]
Claims = Iterable[tuple[str, str]]
"""Pairs of a name and the plugin that claims it, whoever keeps the name first."""

OWNERS: Mapping[What, Mapping[str, str]] = {
    "device": {"cpu": "glm-backend-cpu", "cuda": "glm-backend-cuda", "mps": "glm-backend-mps"},
    "frontend": {"cli": "glm-frontend-cli", "web": "glm-frontend-web", "api": "glm-frontend-api"},
    "model": {"demo": "glm-model-demo"},
    "trainer": {"ptuning": "glm-ptuning"},
}
"""The packages of this project, by what each brings."""


def claimants(host: PluginHost, what: What, claims: Claims) -> dict[str, list[str]]:
    """Return the plugins that claim each name, the one that keeps it first."""
    distributions = {report.name: report.distribution for report in host.reports if report.status == "ok"}
    found: dict[str, list[str]] = {}
    for name, plugin in claims:
        plugins = found.setdefault(name, [])
        if plugin not in plugins:
            plugins.append(plugin)
    for name, plugins in found.items():
        owner = OWNERS[what].get(name, "")
        plugins.sort(key=lambda plugin: distributions.get(plugin) != owner)  # used at once
    return found


def find_name_conflicts(host: PluginHost) -> dict[str, tuple[str, ...]]:
    """Return, by plugin, a remark for every name that it shares with others."""
    remarks: dict[str, list[str]] = defaultdict(list)
    for what, claims in _all_claims(host):
        owned = _keepers(host, host.describe("describe_backend", BackendInfo)) if what == "device" else {}
        for name, (keeper, *others) in claimants(host, what, claims).items():
            claim = f"devices of type {name!r}" if what == "device" else f"{what} {name!r}"
            for other in others:
                remarks[keeper].append(f"describes {claim}, as {other} does; {keeper} comes first")
                end = "whose they are; they are left out" if name in owned else "which comes first"
                remarks[other].append(f"describes {claim}, as {keeper} does, {end}")
    return {plugin: tuple(lines) for plugin, lines in remarks.items()}


def frontend_claims(host: PluginHost) -> Claims:
    """Return which plugin describes which frontend."""
    return [(info.name, plugin) for plugin, info in host.describe("describe_frontend", FrontendInfo).items()]


def trainer_claims(host: PluginHost) -> Claims:
    """Return which plugin describes which trainer."""
    return [(info.name, plugin) for plugin, info in host.describe("describe_trainer", TrainerInfo).items()]


def _all_claims(host: PluginHost) -> Iterator[tuple[What, Claims]]:
    yield "frontend", frontend_claims(host)
    yield "trainer", trainer_claims(host)
    cards = host.describe_many("describe_models", ModelCard)
    yield "model", [(card.name, plugin) for plugin, of_it in cards.items() for card in of_it]
    yield "device", _device_claims(host.describe("describe_backend", BackendInfo))


def _device_claims(backends: Mapping[str, BackendInfo]) -> Claims:
    ranked = sorted(backends.items(), key=lambda item: -item[1].priority)  # equal ones stay sorted by name
    return [(device.type, plugin) for plugin, backend in ranked for device in backend.devices]


def _keepers(host: PluginHost, backends: Mapping[str, BackendInfo]) -> dict[str, str]:
    """Return the plugin of each device type that an installed package of this project is made for."""
    distributions = {report.name: report.distribution for report in host.reports}
    claimed = claimants(host, "device", _device_claims(backends))
    return {
        kind: plugins[0]
        for kind, plugins in claimed.items()
        if distributions.get(plugins[0]) == OWNERS["device"].get(kind)
    }
