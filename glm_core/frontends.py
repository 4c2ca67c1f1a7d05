"""Finding and starting the frontend of a name."""

from __future__ import annotations

import logging
import pkgutil
from collections.abc import Callable, Mapping
from typing import Any

from .conflicts import OWNERS, rank_claimants
from .errors import PluginError
from .isolation import end_sentence, format_error
from .plugins import PluginHost
from .records import FrontendInfo, OpenModel

_log = logging.getLogger("glm")
_PACKAGES = OWNERS["frontend"]


def describe_frontends(host: PluginHost) -> dict[str, FrontendInfo]:
    """Return every installed frontend by its own name."""
    return {name: claims[0][1] for name, claims in _rank_frontends(host).items()}


def _rank_frontends(host: PluginHost) -> dict[str, list[tuple[str, FrontendInfo]]]:
    """Return the plugins that describe a frontend of each name, with what they say; who keeps it first."""
    described = host.describe("describe_frontend", FrontendInfo)
    plugins_of = rank_claimants(host, "frontend", ((info.name, plugin) for plugin, info in described.items()))
    return {name: [(plugin, described[plugin]) for plugin in plugins] for name, plugins in plugins_of.items()}


def find_frontend(host: PluginHost, name: str) -> FrontendInfo:
    """Return the frontend of that name.

    Raises:
        PluginError: it is not installed; says how to install it, or what is.
    """
    claimed = _rank_frontends(host)
    if name in claimed:
        (keeper, info), *others = claimed[name]
        if others:
            _log.warning(
                "glm: frontend %r is described by plugin %s and by %s; %s comes first. "
                "GLM_DISABLE_PLUGINS=%s takes the other.",
                *(name, keeper, ", ".join(plugin for plugin, _ in others), keeper, keeper),
            )
        return info
    if name in _PACKAGES:
        raise PluginError(
            f"frontend {name!r} is not installed: pip install {_PACKAGES[name]}{host.describe_unused()}"
        )
    there = ", ".join(sorted(claimed)) or "none"
    raise PluginError(f"frontend {name!r} is unknown; installed are: {there}{host.describe_unused()}")


def start_frontend(frontend: FrontendInfo, open_model: OpenModel, options: Mapping[str, Any]) -> None:
    """Import the frontend's ``run`` function and call it.

    Raises:
        PluginError: what the frontend names is not there.
    """
    try:
        function: Callable[..., object] = pkgutil.resolve_name(frontend.run)
    except Exception as error:  # a plugin's import: whatever goes wrong there, the plugin is named
        what = f"frontend {frontend.name!r} cannot be started: {frontend.run}: {format_error(error)}"
        advice = "Install it again, or report this to its author."
        raise PluginError(f"{end_sentence(what)} {advice}") from error
    function(open_model, options)
