"""Tests of what ``import glm_core`` offers and costs."""

import json

from fake_plugins import run_python

import glm_core

SURFACE = [
    "API_VERSION",
    "AdapterError",
    "BusyError",
    "ChatModel",
    "ChatRequest",
    "CheckpointError",
    "ClosedError",
    "ConfigError",
    "Delta",
    "DeviceError",
    "GlmError",
    "HubError",
    "Message",
    "ModelInfo",
    "ModelLoad",
    "ModelNotFoundError",
    "NOT_SET",
    "OutOfMemoryError",
    "OutsideFolderError",
    "PluginError",
    "RequestError",
    "Sampling",
    "Tool",
    "ToolCall",
    "Usage",
    "__version__",
    "hookimpl",
    "load",
    "resolve_model",
]


def test_public_names_are_exactly_these() -> None:
    """A name is added to or taken from the public surface on purpose only."""
    assert sorted(glm_core.__all__) == SURFACE
    assert all(hasattr(glm_core, name) for name in SURFACE)


def test_import_loads_nothing_beyond_its_two_dependencies() -> None:
    """``import glm_core`` loads pluggy, platformdirs and the standard library, and nothing else."""
    program = (
        "import json, sys; before = set(sys.modules); import glm_core; "
        "new = {name.partition('.')[0] for name in set(sys.modules) - before}; "
        "print(json.dumps(sorted(new - set(sys.stdlib_module_names))))"
    )
    done = run_python("-c", program)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == ["glm_core", "platformdirs", "pluggy"]
