"""``glm run FRONTEND``: start an installed frontend on a model."""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Callable, Mapping
from typing import Any

from ..errors import PluginError
from ..plugins import PluginHost, default_host
from ..records import FrontendInfo, OpenModel
from ._options import add_model_options, add_plugin_options, command_parser, model_opener

_PACKAGES = {"cli": "glm-frontend-cli", "web": "glm-frontend-web", "api": "glm-frontend-api"}


def run(arguments: list[str]) -> int:
    """Parse, start the frontend, and return when it does."""
    host = default_host()
    if not arguments or arguments[0].startswith("-"):
        return _explain(describe_frontends(host), arguments)
    frontend = find_frontend(host, arguments[0])
    parser = command_parser(f"run {frontend.name}", frontend.summary)
    add_model_options(parser)
    add_plugin_options(parser, frontend.name, frontend.options)
    parsed = parser.parse_args(arguments[1:])
    options = {option.name: getattr(parsed, option.name) for option in frontend.options}
    start_frontend(frontend, model_opener(host, parsed), options)
    return 0


def describe_frontends(host: PluginHost) -> dict[str, FrontendInfo]:
    """Every installed frontend by its own name."""
    described = host.describe("describe_frontend", FrontendInfo)
    return {info.name: info for _, info in sorted(described.items(), reverse=True)}


def find_frontend(host: PluginHost, name: str) -> FrontendInfo:
    """The frontend of that name.

    Raises:
        PluginError: it is not installed; says how to install it, or what is.
    """
    frontends = describe_frontends(host)
    if name in frontends:
        return frontends[name]
    if name in _PACKAGES:
        raise PluginError(f"frontend {name!r} is not installed: pip install {_PACKAGES[name]}{host.unused()}")
    there = ", ".join(sorted(frontends)) or "none"
    raise PluginError(f"frontend {name!r} is unknown; installed are: {there}{host.unused()}")


def start_frontend(frontend: FrontendInfo, open_model: OpenModel, options: Mapping[str, Any]) -> None:
    """Import the frontend's ``run`` function and call it.

    Raises:
        PluginError: what the frontend names is not there.
    """
    module_name, _, function_name = frontend.run.partition(":")
    try:
        function: Callable[..., object] = getattr(importlib.import_module(module_name), function_name)
    except Exception as error:  # a plugin's import: whatever goes wrong there, the plugin is named
        raise PluginError(
            f"frontend {frontend.name!r} cannot be started: {frontend.run}: {type(error).__name__}: {error}. "
            "Install it again, or report this to its author."
        ) from error
    function(open_model, options)


def _explain(frontends: Mapping[str, FrontendInfo], arguments: list[str]) -> int:
    """No frontend is named: print which there are, as help or as an error."""
    parser = command_parser(
        "run",
        "Start a frontend on a model. The options of one: glm run FRONTEND --help",
        usage="glm run FRONTEND [OPTION ...]",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="installed frontends:\n"
        + ("\n".join(f"  {name}  {info.summary}" for name, info in sorted(frontends.items())) or "  none"),
    )
    if not arguments:
        parser.print_help(sys.stderr)
        return 2
    if arguments[0] not in ("-h", "--help"):
        parser.error(f"name the frontend first: glm run FRONTEND {arguments[0]} ...")
    parser.print_help()
    return 0
