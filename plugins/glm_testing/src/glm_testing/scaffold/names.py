"""Derive the names in a package from the name that an author types, and check that they are free."""

from __future__ import annotations

import contextlib
import importlib.util
import keyword
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import metadata

from glm_core.conflicts import OWNERS, What
from glm_core.errors import ConfigError
from glm_core.frontends import describe_frontends
from glm_core.plugins import PluginHost
from glm_core.records import ModelCard, TrainerInfo
from glm_core.survey import take_survey

KINDS = ("backend", "frontend", "runtime", "trainer")
LONGEST_NAME = (
    30  # characters; the name stands in lines of the templates, which then stay short enough to read
)
_BRINGS: dict[str, What] = {"backend": "device", "frontend": "frontend", "trainer": "trainer"}
_NAME = re.compile(r"[A-Za-z][A-Za-z0-9]*(?:[._-]+[A-Za-z0-9]+)*")

# Names of this project's own packages, whether they are installed or not.
_OURS = {what: {*owned, "null", "auto"} for what, owned in OWNERS.items()}


@dataclass(frozen=True)
class PackageNames:
    """The names of one new package.

    Attributes:
        kind: one of `KINDS`.
        distribution: what ``pip install`` takes, such as ``"glm-backend-npu"``.
        package: what Python imports, ``"glm_backend_npu"``.
        plugin: the entry point's name, ``"backend_npu"``.
        short: what users type (a device, a frontend, a model, a trainer), ``"npu"``.
    """

    kind: str
    distribution: str
    package: str
    plugin: str
    short: str

    @classmethod
    def derive(cls, kind: str, name: str) -> PackageNames:
        """Return the names that follow from what the author typed.

        Raises:
            ConfigError: it cannot be the name of a package.
        """
        if not _NAME.fullmatch(name) or len(name) > LONGEST_NAME:
            raise ConfigError(
                f"{name!r} cannot be the name of a package; expected letters, digits and '-', a letter "
                f"first, {LONGEST_NAME} at most, such as glm-{kind}-mine"
            )
        distribution = re.sub(r"[._-]+", "-", name).lower()
        package = distribution.replace("-", "_")
        if keyword.iskeyword(package) or package in sys.stdlib_module_names:
            raise ConfigError(f"{name!r} is a word of Python's own; try glm-{kind}-{distribution}")
        plugin = package.removeprefix("glm_") or package
        short = plugin.removeprefix(f"{kind}_").removesuffix(f"_{kind}")
        return cls(kind, distribution, package, plugin, short.replace("_", "-"))


def refuse_taken(names: PackageNames, host: PluginHost) -> None:
    """Refuse names that something else on this machine has.

    Args:
        names: of the new package.
        host: the installed plugins.

    Raises:
        ConfigError: one is taken; says by what.
    """
    for taken_by in _find_owners(names, host):
        raise ConfigError(f"{taken_by}; choose another NAME")


def _find_owners(names: PackageNames, host: PluginHost) -> Iterator[str]:
    for report in host.reports:
        if report.name == names.plugin:
            yield f"a plugin {names.plugin!r} is installed already, by {report.distribution}"
    with contextlib.suppress(metadata.PackageNotFoundError):
        yield f"a package {names.distribution} {metadata.version(names.distribution)} is installed already"
    if importlib.util.find_spec(names.package) is not None:
        yield f"a Python module {names.package!r} is there already"
    whats: tuple[What, ...] = ("device", "model") if names.kind == "runtime" else (_BRINGS[names.kind],)
    for what in whats:
        if names.short in _list_described(what, host) or names.short in _OURS[what]:
            yield f"a {what} {names.short!r} exists already"


def _list_described(what: What, host: PluginHost) -> set[str]:
    if what == "device":
        return {device.type for placer in take_survey(host).placers for device in placer.devices}
    if what == "frontend":
        return set(describe_frontends(host))
    if what == "trainer":
        return {info.name for info in host.describe("describe_trainer", TrainerInfo).values()}
    cards = host.describe_many("describe_models", ModelCard)
    return {card.name for of_one in cards.values() for card in of_one}
