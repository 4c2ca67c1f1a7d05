"""Commands that other distributions bring, found through the entry-point group ``glm.commands``.

The core keeps their names and one line of help, so that ``glm --help`` is complete and a command that
is not installed says what to install.
"""

from __future__ import annotations

from importlib.metadata import entry_points

from .._isolation import format_error
from ..errors import ConfigError, PluginError

ENTRY_POINT_GROUP = "glm.commands"
PACKAGES = {
    **dict.fromkeys(("bench", "predict", "quantize", "train"), "glm-jobs"),
    "plugin": '"glm-core[testing]"',
}


def run_packaged(command: str, arguments: list[str]) -> int:
    """Run a command of another distribution and return its exit status.

    Raises:
        ConfigError: the distribution is not installed; names the pip line.
        PluginError: it is installed and cannot be imported.
    """
    for entry_point in entry_points(group=ENTRY_POINT_GROUP, name=command):
        try:
            run = entry_point.load()
        except Exception as error:  # whatever is wrong with the installed package
            raise PluginError(
                f"glm {command} is installed but broken ({format_error(error)}); "
                f"install it again: pip install --force-reinstall {PACKAGES[command]}"
            ) from error
        status: int = run(arguments)
        return status
    missing = f"glm {command} is not installed: pip install {PACKAGES[command]}"
    if {"-h", "--help"} & set(arguments):  # whoever asks what a command does has made no mistake
        print(missing)
        return 0
    raise ConfigError(missing)
