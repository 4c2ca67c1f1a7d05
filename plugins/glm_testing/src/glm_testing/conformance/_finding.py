"""Find the plugin that an author names: an entry point, a module's path, or a module."""

from __future__ import annotations

import importlib
import importlib.util
from importlib import metadata
from types import ModuleType

from glm_core.candidates import ENTRY_POINT_GROUP
from glm_core.errors import ConfigError
from glm_core.plugins import Candidate, list_candidates


def find_candidate(plugin: str | ModuleType) -> Candidate:
    """Return how to load the plugin of a name, of a module's path, or a module itself.

    Raises:
        ConfigError: nothing of that name is installed or can be imported.
    """
    if not isinstance(plugin, str):
        return Candidate(plugin.__name__, plugin.__name__, "", lambda: plugin)
    for candidate in list_candidates():
        if candidate.name == plugin:
            return candidate
    if not _can_be_found(plugin):
        names = ", ".join(candidate.name for candidate in list_candidates()) or "none"
        raise ConfigError(
            f"{plugin!r} is neither an installed plugin ({names}) nor a module that can be imported; "
            "pass the name of an entry point or the path of a module such as glm_backend_mine.plugin"
        )
    return Candidate(plugin, plugin.partition(".")[0], "", lambda: importlib.import_module(plugin))


def _can_be_found(module_name: str) -> bool:
    try:
        return importlib.util.find_spec(module_name) is not None
    except (ImportError, ValueError):
        return False
    except Exception:  # of the package around it: it is there, and a check will name what is wrong with it
        return True


def find_module_name(plugin: str | ModuleType) -> str | None:
    """Return the path by which another process can import the plugin, if there is one."""
    if not isinstance(plugin, str):
        return None if plugin.__spec__ is None else plugin.__spec__.name
    for point in metadata.entry_points(group=ENTRY_POINT_GROUP):
        if point.name == plugin:
            return point.module
    return plugin
