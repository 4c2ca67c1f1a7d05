"""``glm run FRONTEND``: start an installed frontend on a model."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping

from ..frontends import describe_frontends, find_frontend, start_frontend
from ..plugins import get_default_host
from ..records import FrontendInfo
from .options import add_model_options, add_plugin_options, make_command_parser, make_model_opener


def run(arguments: list[str]) -> int:
    """Parse, start the frontend, and return when it does."""
    host = get_default_host()
    if not arguments or arguments[0].startswith("-"):
        return _explain(describe_frontends(host), arguments)
    frontend = find_frontend(host, arguments[0])
    parser = make_command_parser(f"run {frontend.name}", frontend.summary)
    add_model_options(parser)
    add_plugin_options(parser, frontend.name, frontend.options)
    parsed = parser.parse_args(arguments[1:])
    options = {option.name: getattr(parsed, option.name) for option in frontend.options}
    start_frontend(frontend, make_model_opener(host, parsed), options)
    return 0


def _explain(frontends: Mapping[str, FrontendInfo], arguments: list[str]) -> int:
    """Print which frontends there are, as help or as an error, because none was named."""
    parser = make_command_parser(
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
