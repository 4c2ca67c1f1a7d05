"""The smallest complete plugins, for tests and for reading: a null runtime and backend, a null frontend.

Copy `glm_core.testing.null_backend` or `glm_core.testing.null_frontend` to start a plugin.
"""

from .hosts import host_of, plugin_of

__all__ = ["host_of", "plugin_of"]
