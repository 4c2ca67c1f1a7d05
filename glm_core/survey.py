"""What the installed runtimes and backends say of themselves, asked once and carried along."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from .descriptions import BackendInfo, DeviceInfo, RuntimeInfo
from .errors import ConfigError, PluginError
from .plugins import PluginHost


@dataclass(frozen=True)
class Placer:
    """A plugin that can place models, and its description: a backend, or a runtime on its own devices."""

    plugin: str
    info: BackendInfo | RuntimeInfo

    @property
    def devices(self) -> tuple[DeviceInfo, ...]:
        """Return the devices that it described."""
        return self.info.devices

    def __str__(self) -> str:
        """Return what messages call it."""
        return f"{'backend' if isinstance(self.info, BackendInfo) else 'runtime'} {self.plugin!r}"


@dataclass(frozen=True)
class Survey:
    """The runtimes and backends of one moment.

    A command or a `glm_core.load` takes one survey and carries it along, so that every decision is
    made on the same facts and each plugin is asked once. It is not kept for the next: free memory
    and devices change. Descriptions are by plugin.
    """

    host: PluginHost
    runtimes: Mapping[str, RuntimeInfo]
    backends: Mapping[str, BackendInfo]

    @property
    def placers(self) -> tuple[Placer, ...]:
        """Return every plugin that describes devices: all backends, and the runtimes that have some."""
        own = {plugin: info for plugin, info in self.runtimes.items() if info.devices}
        backends = (Placer(plugin, info) for plugin, info in self.backends.items())
        return (*backends, *(Placer(plugin, info) for plugin, info in own.items()))

    def format_runtime_options(self, plugins: Sequence[str]) -> str:
        """Return the options that tell these runtimes apart: ``--runtime a or --runtime b``."""
        names = [self.runtimes[plugin].name for plugin in plugins]
        words = names if len(set(names)) == len(names) else plugins
        return " or ".join(f"--runtime {word}" for word in words)

    def find_runtime(self, name: str) -> str | None:
        """Return the plugin of the runtime that ``--runtime`` names; ``None`` for ``auto``.

        Raises:
            ConfigError: no runtime, or more than one, has the name; lists the names that there are.
            PluginError: no runtime is installed at all.
        """
        if not self.runtimes:
            raise PluginError(
                "no installed plugin can run a model: pip install glm-backend-cpu"
                f"{self.host.describe_unused()}"
            )
        if name == "auto":
            return None
        if name in self.runtimes:  # names of plugins are unique
            return name
        found = [plugin for plugin, info in self.runtimes.items() if info.name == name]
        if len(found) == 1:
            return found[0]
        if found:
            raise ConfigError(
                f"runtime {name!r}: {len(found)} plugins call theirs so; choose by plugin: {', '.join(found)}"
            )
        names = ", ".join(["auto", *sorted({info.name for info in self.runtimes.values()})])
        raise ConfigError(f"runtime {name!r} is unknown; choose one of: {names}{self.host.describe_unused()}")


def take_survey(host: PluginHost) -> Survey:
    """Ask every runtime and backend what it is; a broken one is reported by the host and left out."""
    return Survey(
        host,
        runtimes=host.describe("describe_runtime", RuntimeInfo),
        backends=host.describe("describe_backend", BackendInfo),
    )
