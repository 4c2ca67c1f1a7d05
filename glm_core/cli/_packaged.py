"""Commands that other distributions bring, found through the entry-point group ``glm.commands``.

The core keeps their names and one line of help, so that ``glm --help`` is complete and a command that
is not installed says what to install.
"""

from __future__ import annotations

from importlib.metadata import entry_points

from ..errors import ConfigError

ENTRY_POINT_GROUP = "glm.commands"
PACKAGES = {"bench": "glm-bench", "plugin": '"glm-core[testing]"'}


def run_packaged(command: str, arguments: list[str]) -> int:
    """Run a command of another distribution and return its exit status.

    Raises:
        ConfigError: the distribution is not installed; names the pip line.
    """
    for entry_point in entry_points(group=ENTRY_POINT_GROUP, name=command):
        status: int = entry_point.load()(arguments)
        return status
    raise ConfigError(f"glm {command} is not installed: pip install {PACKAGES[command]}")
