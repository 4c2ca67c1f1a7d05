"""What core sees of this plugin."""

from __future__ import annotations

import importlib
import subprocess
import sys

from glm_frontend_web import plugin
from glm_testing import make_host

from glm_core.records import FrontendInfo


def test_web_frontend_describes_itself() -> None:
    """Core finds a frontend called web whose run function exists."""
    info = make_host(frontend_web=plugin).describe("describe_frontend", FrontendInfo)["frontend_web"]
    module, _, function = info.run.partition(":")
    assert info.name == "web"
    assert callable(getattr(importlib.import_module(module), function))


def test_web_frontend_options_all_have_help() -> None:
    """Every option has a line of help and a unique name; the page is closed to others by default."""
    options = {option.name: option for option in plugin.describe_frontend().options}
    assert len(options) == len(plugin.describe_frontend().options) == 11
    assert all(option.help for option in options.values())
    assert options["host"].default == "127.0.0.1"
    assert options["port"].default == 7860
    assert not any(options[name].default for name in ("share", "insecure", "with_api"))


def test_neither_the_plugin_nor_a_wrong_option_imports_gradio() -> None:
    """Describing the frontend and refusing an option are quick: nothing heavy is imported for them."""
    program = (
        "import sys\n"
        "from glm_frontend_web import plugin\n"
        "plugin.describe_frontend()\n"
        "from glm_frontend_web._serving import run\n"
        "try:\n    run(None, {'host': '0.0.0.0'})\n"
        "except Exception as error:\n    print(type(error).__name__)\n"
        "print([name for name in ('gradio', 'torch', 'fastapi') if name in sys.modules])\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.split("\n")[:2] == ["ConfigError", "[]"]
