"""Make plugin hosts of given modules, without installing anything."""

from __future__ import annotations

from types import ModuleType

from glm_core.plugins import API_VERSION, Candidate, PluginHost


def host_of(**modules: ModuleType | object) -> PluginHost:
    """Return a `PluginHost` of the given plugin modules, by name.

    >>> from glm_testing import host_of, null_backend
    >>> host_of(null=null_backend).answering("place")
    ('null',)
    """
    return PluginHost(
        Candidate(name, f"glm-{name}", "0", lambda module=module: module)  # type: ignore[misc]
        for name, module in modules.items()
    )


def plugin_of(**members: object) -> ModuleType:
    """Return a plugin module of the given hook functions, for this API version.

    >>> from glm_testing import host_of, null_backend, plugin_of
    >>> host_of(mine=plugin_of(place=null_backend.place)).answering("place")
    ('mine',)
    """
    module = ModuleType("plugin_of_a_test")
    module.GLM_API_VERSION = API_VERSION  # type: ignore[attr-defined]
    vars(module).update(members)
    return module
