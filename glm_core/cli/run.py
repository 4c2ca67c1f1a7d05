"""``glm run FRONTEND``: start an installed frontend on a model."""

from __future__ import annotations

import argparse
import functools
import importlib
from collections.abc import Callable, Mapping
from typing import Any

from ..errors import PluginError
from ..plugins import PluginHost, default_host
from ..records import FrontendInfo, OpenModel
from ._options import add_model_options, add_plugin_options, open_chosen_model

_PACKAGES = {"cli": "glm-frontend-cli", "web": "glm-frontend-web", "api": "glm-frontend-api"}


def run(arguments: list[str]) -> int:
    """Parse, start the frontend, and return when it does."""
    host = default_host()
    frontends = describe_frontends(host)
    if not arguments or arguments[0].startswith("-"):
        _parser(frontends).parse_args(arguments)  # prints help or what is missing, and exits
    frontend = find_frontend(host, arguments[0])
    parser = argparse.ArgumentParser(prog=f"glm run {frontend.name}", description=frontend.summary)
    add_plugin_options(parser, frontend.name, frontend.options)
    add_model_options(parser)
    parsed = parser.parse_args(arguments[1:])
    options = {option.name: getattr(parsed, option.name) for option in frontend.options}
    start_frontend(frontend, functools.partial(open_chosen_model, host, parsed), options)
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
        raise PluginError(
            f"frontend {name!r} is not installed, or is broken (see glm plugins): pip install {_PACKAGES[name]}"
        )
    raise PluginError(
        f"frontend {name!r} is unknown; installed are: {', '.join(sorted(frontends)) or 'none'}"
    )


def start_frontend(frontend: FrontendInfo, open_model: OpenModel, options: Mapping[str, Any]) -> None:
    """Import the frontend's ``run`` function and call it.

    Raises:
        PluginError: what the frontend names is not there.
    """
    module_name, _, function_name = frontend.run.partition(":")
    try:
        function: Callable[..., object] = getattr(importlib.import_module(module_name), function_name)
    except (ImportError, AttributeError) as error:
        raise PluginError(
            f"frontend {frontend.name!r} cannot be started: {frontend.run} is not there ({error}); "
            "install it again or report this to its author"
        ) from error
    function(open_model, options)


def _parser(frontends: Mapping[str, FrontendInfo]) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="glm run",
        description="Start a frontend on a model. Options of one: glm run FRONTEND --help",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="installed frontends:\n"
        + ("\n".join(f"  {name}  {info.summary}" for name, info in sorted(frontends.items())) or "  none"),
    )
    parser.add_argument("frontend", choices=sorted(frontends), help="which one")
    return parser
