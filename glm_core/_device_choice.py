"""Which devices ``--device`` means, among all that are described or those that suit one model.

The rules, none of which looks at the order of names:

- ``auto`` takes the available device of highest priority.
- ``cuda:0,1`` takes these devices of the plugin that the type belongs to: this project's package for
  it, then a plugin that is called as the type is, then the plugin of highest priority.
- A type that belongs to an installed package of this project is nobody else's, unless ``--runtime``
  names a runtime that brings devices of that type itself.
- What remains equal is an error that says how to choose.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import groupby

from .conflicts import OWNERS
from .descriptions import DeviceInfo
from .errors import ConfigError, DeviceError
from .survey import Placer, Survey

_PACKAGES = OWNERS["device"]


@dataclass(frozen=True)
class ModelRoute:
    """Who loads a model, who places it, and where; a candidate has every device that comes into question.

    Attributes:
        runtime: the plugin that loads the model and answers with it; empty where no model is looked at.
        placer: the plugin that places it, with what it offers.
        devices: where, in the order that the user gave.
        priorities: of the placer and of the runtime.
        passed_over: with ``auto``: better devices that are not available.
    """

    runtime: str
    placer: Placer
    devices: tuple[DeviceInfo, ...]
    priorities: tuple[int, int]
    passed_over: tuple[DeviceInfo, ...] = ()

    def explain(self) -> str:
        """Return the line that tells what ``auto`` took.

        It says why better devices were not taken, without what to do about it: nobody asked for them.
        """
        reasons = [f"{each.name}: {each.reason.partition(';')[0]}" for each in self.passed_over]
        return f"device auto: {self.devices[0].name} ({'; '.join([self.devices[0].label, *reasons])})"


def make_candidate(survey: Survey, placer: Placer, runtime: str = "") -> ModelRoute:
    """Return a placer as a candidate for models of a runtime, or for any model."""
    own = survey.runtimes[runtime].priority if runtime else 0
    return ModelRoute(runtime, placer, placer.info.devices, (placer.info.priority, own))


def find_best_routes(
    survey: Survey, candidates: Sequence[ModelRoute], wanted: str, *, named_runtime: str | None = None
) -> list[ModelRoute]:
    """Return the routes that ``--device`` means and that are equal; one, unless the user must decide.

    Raises:
        DeviceError: the device is unknown, absent or not available; says which there are.
    """
    rightful = _drop_others_devices(survey, candidates, named_runtime)
    if wanted == "auto":
        return _find_best_available(rightful)
    kind, _, indices = wanted.partition(":")

    def rank(route: ModelRoute) -> tuple[bool, bool, tuple[int, int]]:
        ours = survey.host.find_distribution(route.placer.plugin) == _PACKAGES.get(kind, "")
        return ours, route.placer.info.name == kind, route.priorities

    refusals: list[DeviceError] = []
    for _, group in groupby(sorted(rightful, key=rank, reverse=True), key=rank):
        routes: list[ModelRoute] = []
        for route in group:
            of_kind = tuple(device for device in route.devices if device.type == kind)
            if of_kind:
                try:
                    routes.append(replace(route, devices=_pick(wanted, of_kind, indices)))
                except DeviceError as error:  # another plugin may offer the same type of device
                    refusals.append(error)
        if routes:
            return routes
    raise refusals[0] if refusals else _make_unknown_device_error(survey, rightful, wanted, named_runtime)


def require_one(survey: Survey, routes: Sequence[ModelRoute]) -> ModelRoute:
    """Return the one route that there is.

    Raises:
        ConfigError: there are several; names them and says how to choose.
    """
    if len(routes) == 1:
        return routes[0]
    runtimes = sorted({route.runtime for route in routes})
    if len(runtimes) > 1:
        raise ConfigError(
            f"{len(runtimes)} runtimes can run this model equally well; choose with "
            + survey.format_runtime_options(runtimes)
        )
    devices = sorted({route.devices[0].name for route in routes})
    plugins = [route.placer.plugin for route in routes]
    if len(devices) == len(routes):
        advice = "choose with " + " or ".join(f"--device {name}" for name in devices)
    elif set(plugins) <= set(survey.runtimes):  # with devices of their own
        advice = "choose with " + survey.format_runtime_options(plugins)
    else:
        kept = next((plugin for plugin in plugins if plugin in survey.runtimes), plugins[0])
        others = ",".join(plugin for plugin in plugins if plugin != kept)  # a runtime must stay to load it
        advice = f"leave all but one out, such as with GLM_DISABLE_PLUGINS={others}"
    placers = " and ".join(str(route.placer) for route in routes)
    raise ConfigError(f"{placers} have devices of the same priority; {advice}")


def _drop_others_devices(
    survey: Survey, candidates: Sequence[ModelRoute], named: str | None
) -> list[ModelRoute]:
    """Drop from each candidate the devices of types that belong to another candidate."""
    owners: dict[str, str] = {}
    for route in candidates:
        plugin = route.placer.plugin
        distribution = survey.host.find_distribution(plugin)
        for kind in {device.type for device in route.devices}:
            if plugin == named:
                owners[kind] = plugin
            elif _PACKAGES.get(kind) == distribution:
                owners.setdefault(kind, plugin)
    rightful = []
    for route in candidates:
        own = route.placer.plugin
        kept = tuple(device for device in route.devices if owners.get(device.type, own) == own)
        rightful.append(replace(route, devices=kept))
    return rightful


def _find_best_available(candidates: Sequence[ModelRoute]) -> list[ModelRoute]:
    passed_over: list[DeviceInfo] = []

    def rank(route: ModelRoute) -> tuple[int, int]:
        return route.priorities

    for _, group in groupby(sorted(candidates, key=rank, reverse=True), key=rank):
        routes = []
        for route in group:
            before = list(passed_over)
            for device in route.devices:
                if device.available:
                    routes.append(replace(route, devices=(device,), passed_over=tuple(before)))
                    break
                if device not in before:  # two runtimes could have had it
                    before.append(device)
            else:
                passed_over = before
        if routes:
            return routes
    reasons = [f"{device.name}: {device.reason}" for device in passed_over]
    raise DeviceError(f"no device is available: {'; '.join(reasons) or 'the backends see none'}")


def _make_unknown_device_error(
    survey: Survey, routes: Sequence[ModelRoute], wanted: str, runtime: str | None
) -> DeviceError:
    """Return the error for a device of a type that no candidate has, with what to do instead."""
    kind = wanted.partition(":")[0]
    ranked = sorted(routes, key=lambda route: -route.priorities[0])
    devices = [device for route in ranked for device in route.devices if device.available]
    there = ", ".join(dict.fromkeys(device.name for device in devices)) or "none"
    unused = survey.host.describe_unused()
    namesakes = [placer for placer in survey.placers if placer.info.name == kind]
    described = [device for placer in namesakes for device in placer.devices]
    if namesakes and not any(device.type == kind for device in described):
        but = "".join(f", only {device.name}" for device in described[:1])
        return DeviceError(f"device {wanted!r}: its backend sees no such device{but}; choose one of: {there}")
    if any(device.type == kind for placer in survey.placers for device in placer.devices):
        named = "" if runtime is None else f" with --runtime {survey.runtimes[runtime].name}"
        return DeviceError(f"device {wanted!r} cannot run this model{named}; choose one of: {there}")
    if kind in _PACKAGES:
        return DeviceError(
            f"device {wanted!r} needs a backend that is not installed: pip install {_PACKAGES[kind]}, "
            f"or choose one of: {there}{unused}"
        )
    return DeviceError(f"device {wanted!r} is unknown; choose one of: auto, {there}{unused}")


def _pick(wanted: str, devices: tuple[DeviceInfo, ...], indices: str) -> tuple[DeviceInfo, ...]:
    """Return the devices of one type that the part after the colon names."""
    by_name = {device.name: device for device in devices}
    kind = devices[0].type
    if indices:
        names = [f"{kind}:{index.strip()}" for index in indices.split(",")]
    else:
        names = [next((device.name for device in devices if device.available), devices[0].name)]
    if len(set(names)) != len(names):
        raise DeviceError(f"device {wanted!r} names the same device twice")
    if names == [f"{kind}:0"] and kind in by_name:
        names = [kind]  # torch's spelling of a device that has no number: cpu:0, mps:0
    if not any(device.available for device in devices) and not set(names) <= set(by_name):
        raise DeviceError(f"device {wanted!r} is not available: {devices[0].reason}")
    for name in names:
        if name not in by_name:
            raise DeviceError(f"device {name!r} does not exist; there are: {', '.join(by_name)}")
        if not by_name[name].available:
            raise DeviceError(f"device {name!r} is not available: {by_name[name].reason}")
    return tuple(by_name[name] for name in names)
