"""Servers around a scripted model and around the bundled demo model."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from api_support import ScriptedRuntime, Served, serving
from tiny_adapters import write_adapter

import glm_core
from glm_core import ChatModel


@pytest.fixture
def runtime() -> Iterator[ScriptedRuntime]:
    """A model that does what the question says."""
    runtime = ScriptedRuntime()
    yield runtime
    runtime.gate.set()  # nothing may outlive its test


@pytest.fixture
def served(runtime: ScriptedRuntime) -> Iterator[Served]:
    """A server around the scripted model."""
    with serving(runtime.model) as served:
        yield served


@pytest.fixture(scope="session")
def demo_model() -> Iterator[ChatModel]:
    """The bundled demo model."""
    with glm_core.load("demo") as model:
        yield model


@pytest.fixture(scope="session")
def keyed(demo_model: ChatModel, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A server around the demo model with a key, and a folder with one adapter."""
    folder = tmp_path_factory.mktemp("adapters")
    write_adapter(folder / "tuned", glm_core.resolve_model("demo"), pre_seq_len=8)
    with serving(demo_model, api_key="key-of-the-tests", adapters_dir=folder) as served:
        yield served


@pytest.fixture(scope="session")
def demo(demo_model: ChatModel) -> Iterator[Served]:
    """A server around the demo model."""
    with serving(demo_model) as served:
        yield served
