"""A plugin host of given modules, without installing anything."""

from __future__ import annotations

from types import ModuleType

from ..plugins import Candidate, PluginHost


def host_of(**modules: ModuleType | object) -> PluginHost:
    """A `PluginHost` of the given plugin modules, by name.

    >>> from glm_core.testing import host_of, null_backend
    >>> host_of(null=null_backend).answering("place")
    ('null',)
    """
    return PluginHost(
        Candidate(name, f"glm-{name}", "0", lambda module=module: module)  # type: ignore[misc]
        for name, module in modules.items()
    )
