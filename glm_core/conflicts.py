"""Decide who keeps a name that two plugins claim, by one rule, and say so.

A name of this project's own packages (``cli``, ``cpu``, ``demo``) stays with that package where it
is installed. Any other frontend, trainer or model is taken from the plugin whose own name sorts
first; who places a model on a device is decided in `glm_core._device_choice`, and not by names. What
two *packages* call their plugins is decided earlier, where plugins are loaded.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Literal

from .plugins import PluginHost
from .records import FrontendInfo, ModelCard, TrainerInfo
from .survey import Survey, take_survey

What = Literal["device", "frontend", "model", "trainer"]
Claims = Iterable[tuple[str, str]]
"""Pairs of a name and the plugin that claims it, whoever keeps the name first."""
Cards = Mapping[str, Sequence[ModelCard]]  # the models that each plugin describes

OWNERS: Mapping[What, Mapping[str, str]] = {
    "device": {"cpu": "glm-backend-cpu", "cuda": "glm-backend-cuda", "mps": "glm-backend-mps"},
    "frontend": {"cli": "glm-frontend-cli", "web": "glm-frontend-web", "api": "glm-frontend-api"},
    "model": {"demo": "glm-model-demo"},
    "trainer": {"ptuning": "glm-ptuning"},
}
"""The packages of this project, by what each brings."""


def rank_claimants(host: PluginHost, what: What, claims: Claims) -> dict[str, list[str]]:
    """Return the plugins that claim each name, the one that keeps it first."""
    found: dict[str, list[str]] = {}
    for name, plugin in claims:
        plugins = found.setdefault(name, [])
        if plugin not in plugins:
            plugins.append(plugin)
    for name, plugins in found.items():
        owner = OWNERS[what].get(name, "")
        plugins.sort(key=lambda plugin: host.find_distribution(plugin) != owner)  # used at once
    return found


def find_name_conflicts(
    host: PluginHost, survey: Survey | None = None, cards: Cards | None = None
) -> dict[str, tuple[str, ...]]:
    """Return, by plugin, a remark for every name that it shares with others; ask what is not given."""
    remarks: dict[str, list[str]] = defaultdict(list)
    survey = survey or take_survey(host)
    priorities = {placer.plugin: placer.info.priority for placer in survey.placers}
    for what, claims in _collect_claims(host, survey, cards):
        for name, (keeper, *others) in rank_claimants(host, what, claims).items():
            claim = f"devices of type {name!r}" if what == "device" else f"{what} {name!r}"
            is_owner = what == "device" and host.find_distribution(keeper) == OWNERS[what].get(name)
            for other in others:
                first, second = f"; {keeper} comes first", ", which comes first"
                if is_owner:
                    when = "only with --runtime" if other in survey.runtimes else "never"
                    second = f", whose they are; taken {when}"
                elif what == "device" and priorities[keeper] == priorities[other]:
                    first = second = "; neither comes first, so that the user has to choose"
                remarks[keeper].append(f"describes {claim}, as {other} does{first}")
                remarks[other].append(f"describes {claim}, as {keeper} does{second}")
    for plugin, backend in survey.backends.items():
        if not backend.kinds:
            remarks[plugin].append("names no kinds of models (BackendInfo.kinds) and is never asked")
    return {plugin: tuple(lines) for plugin, lines in remarks.items()}


def _collect_claims(host: PluginHost, survey: Survey, cards: Cards | None) -> Iterator[tuple[What, Claims]]:
    frontends = host.describe("describe_frontend", FrontendInfo)
    yield "frontend", [(info.name, plugin) for plugin, info in frontends.items()]
    trainers = host.describe("describe_trainer", TrainerInfo)
    yield "trainer", [(info.name, plugin) for plugin, info in trainers.items()]
    cards = host.describe_many("describe_models", ModelCard) if cards is None else cards
    yield "model", [(card.name, plugin) for plugin, of_it in cards.items() for card in of_it]
    placers = sorted(survey.placers, key=lambda placer: -placer.info.priority)
    yield "device", [(device.type, placer.plugin) for placer in placers for device in placer.devices]
