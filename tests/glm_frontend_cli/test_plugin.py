"""What core sees of this plugin."""

from __future__ import annotations

import importlib

from glm_frontend_cli import plugin
from glm_testing import make_host

from glm_core.records import FrontendInfo


def test_cli_frontend_describes_itself() -> None:
    """Core finds a frontend called cli whose run function exists."""
    described = make_host(frontend_cli=plugin).describe("describe_frontend", FrontendInfo)
    info = described["frontend_cli"]
    module, _, function = info.run.partition(":")
    assert info.name == "cli"
    assert callable(getattr(importlib.import_module(module), function))


def test_cli_frontend_options_all_have_help() -> None:
    """Every option has a line of help and a unique name."""
    options = plugin.describe_frontend().options
    assert all(option.help for option in options)
    assert len({option.name for option in options}) == len(options) == 11
