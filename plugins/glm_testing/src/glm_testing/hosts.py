"""Make plugin hosts of given modules, without installing anything."""

from __future__ import annotations

from types import ModuleType

from glm_core.plugins import API_VERSION, Candidate, PluginHost


def make_host(**modules: ModuleType | object) -> PluginHost:
    """Return a `PluginHost` of the given plugin modules, by name.

    >>> from glm_testing import make_host, null_backend
    >>> make_host(null=null_backend).list_answering("place")
    ('null',)
    """
    return PluginHost(
        Candidate(name, f"glm-{name}", "0", lambda module=module: module)  # type: ignore[misc]
        for name, module in modules.items()
    )


def make_plugin(**members: object) -> ModuleType:
    """Return a plugin module of the given hook functions, for this API version.

    >>> from glm_testing import make_host, null_backend, make_plugin
    >>> make_host(mine=make_plugin(place=null_backend.place)).list_answering("place")
    ('mine',)
    """
    module = ModuleType("plugin_of_a_test")
    module.GLM_API_VERSION = API_VERSION  # type: ignore[attr-defined]
    vars(module).update(members)
    return module
