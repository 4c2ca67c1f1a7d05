"""The examples as their users get them: wheels, installed where nothing else of ours is."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType

import pytest
from packages import install
from tiny_gguf import write_tiny_gguf

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.fixture(scope="session")
def example_wheels(wheels: Path) -> list[Path]:
    """A wheel of each example."""
    names = {path.parent.name for path in EXAMPLES.glob("*/pyproject.toml")}
    return [wheel for wheel in sorted(wheels.glob("*.whl")) if wheel.name.split("-")[0] in names]


@pytest.fixture(scope="session")
def installed(example_wheels: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with all of them installed."""
    return install(example_wheels, tmp_path_factory.mktemp("installed"))


@pytest.fixture(scope="session")
def llamacpp() -> Iterator[ModuleType]:
    """The plugin module of the llama.cpp example, from the checkout."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(EXAMPLES / "glm_runtime_llamacpp" / "src"))
        yield importlib.import_module("glm_runtime_llamacpp.plugin")


@pytest.fixture(scope="session")
def tiny_gguf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny random model as a GGUF file; skips where nothing can write or read it."""
    missing = [name for name in ("llama_cpp", "gguf") if find_spec(name) is None]
    if missing:
        pytest.skip(f"not installed: {', '.join(missing)}; examples/README.md says how to run this test")
    return write_tiny_gguf(tmp_path_factory.mktemp("gguf") / "tiny.gguf")
