"""``glm plugin new KIND NAME``: hand over to the package that writes new plugins."""

from __future__ import annotations

from importlib.metadata import entry_points

from .._isolation import format_error
from ..errors import PluginError

GROUP = "glm.scaffold"
_INSTALL = 'pip install "glm-core[testing]"'


def run(arguments: list[str]) -> int:
    """Call the scaffold's own command.

    The templates are only of use to authors of plugins, who need the conformance kit as well; so both are
    a package of their own, found through an entry point, because core imports no other package.

    Raises:
        PluginError: the package that holds the templates is not installed, or broken.
    """
    for entry_point in entry_points(group=GROUP, name="new"):
        try:
            write_plugin = entry_point.load()
        except Exception as error:  # whatever is wrong with the installed package
            raise PluginError(
                f"glm-testing is installed but broken ({format_error(error)}); install it again: {_INSTALL}"
            ) from error
        status: int = write_plugin(arguments)
        return status
    missing = f"glm plugin new needs the templates of glm-testing, which is not installed: {_INSTALL}"
    if {"-h", "--help"} & set(arguments):
        print(f"usage: glm plugin new KIND NAME\n\n{missing}")
        return 0
    raise PluginError(missing)
