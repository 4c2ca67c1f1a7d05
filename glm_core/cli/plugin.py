"""``glm plugin new KIND NAME``: hand over to the package that writes new plugins."""

from __future__ import annotations

from importlib.metadata import entry_points

from ..errors import ConfigError

GROUP = "glm.scaffold"


def run(arguments: list[str]) -> int:
    """Call the scaffold's own command.

    Raises:
        ConfigError: the package that holds the templates is not installed.
    """
    for entry_point in entry_points(group=GROUP, name="new"):
        status: int = entry_point.load()(arguments)
        return status
    raise ConfigError(
        "glm plugin new needs the templates of glm-testing, which is not installed: "
        'pip install "glm-core[testing]"'
    )
