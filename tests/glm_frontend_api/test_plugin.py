"""What core sees of this plugin."""

from __future__ import annotations

import importlib
import subprocess
import sys

from glm_frontend_api import plugin
from glm_frontend_api.config import ApiConfig, parse_config
from glm_testing import make_host

from glm_core.records import FrontendInfo


def test_api_frontend_describes_itself() -> None:
    """Core finds a frontend called api whose run function exists."""
    described = make_host(frontend_api=plugin).describe("describe_frontend", FrontendInfo)
    info = described["frontend_api"]
    module, _, function = info.run.partition(":")
    assert info.name == "api"
    assert callable(getattr(importlib.import_module(module), function))


def test_options_and_configuration_have_the_same_defaults() -> None:
    """Every option has help and a field, and not giving it is the same as its default."""
    options = plugin.describe_frontend().options
    assert all(option.help for option in options)
    assert parse_config({option.name: option.default for option in options}, {}) == ApiConfig()
    fields = set(ApiConfig.__dataclass_fields__) | {"cors_origin"}
    assert {option.name for option in options} <= fields
    assert len(options) == 14


def test_describing_imports_nothing_heavy() -> None:
    """Looking for plugins, as ``glm --help`` does, pays for no web framework."""
    heavy = "{'fastapi', 'uvicorn', 'pydantic', 'prometheus_client', 'torch'}"
    code = f"import sys, glm_frontend_api.plugin; print(sorted({heavy} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
