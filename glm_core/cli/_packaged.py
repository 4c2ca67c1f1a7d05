"""Commands that other distributions bring, found through the entry-point group ``glm.commands``.

The core keeps their names and one line of help, so that ``glm --help`` is complete and a command that
is not installed says what to install.
"""

from __future__ import annotations

from ..candidates import load_declared
from ..errors import ConfigError

ENTRY_POINT_GROUP = "glm.commands"
PACKAGES = {
    **dict.fromkeys(("bench", "predict", "quantize", "train"), "glm-jobs"),
    "plugin": '"glm-core[testing]"',
    "verify": '"glm-core[hub]"',
}


def run_packaged(command: str, arguments: list[str]) -> int:
    """Run a command of another distribution and return its exit status.

    Raises:
        ConfigError: the distribution is not installed; names the pip line.
        PluginError: it is installed and cannot be imported.
    """
    run = load_declared(ENTRY_POINT_GROUP, command, PACKAGES[command])
    if run is not None:
        status: int = run(arguments)
        return status
    missing = f"glm {command} is not installed: pip install {PACKAGES[command]}"
    if {"-h", "--help"} & set(arguments):  # whoever asks what a command does has made no mistake
        print(missing)
        return 0
    raise ConfigError(missing)
