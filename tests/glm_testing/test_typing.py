"""A plugin that is typed against glm_core passes the strictest type checker."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from child_process import run

PLUGIN = '''
"""A plugin as its author would type it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from glm_core import ChatRequest, Delta, ModelInfo, Sampling, Usage, hookimpl
from glm_core.records import (
    BackendInfo,
    DeviceInfo,
    FrontendInfo,
    LoadedModel,
    ModelSource,
    OpenModel,
    Placement,
    TrainJob,
    TrainProgress,
)
from glm_testing.conformance import ConformanceTests
from glm_testing.driver import FrontendDriver

GLM_API_VERSION = 2


class Model:
    """Nothing but facts."""

    def __init__(self, name: str) -> None:
        self.info = ModelInfo(name, "mine", 0, 16, Sampling())

    def close(self) -> None:
        """Nothing to give back."""


@hookimpl
def load_model(source: ModelSource) -> Model | None:
    return Model(source.name) if source.name == "mine" else None


@hookimpl
def place(model: LoadedModel, placement: Placement) -> LoadedModel | None:
    return model if isinstance(model, Model) and placement.devices else None


@hookimpl
def chat_stream(model: LoadedModel, request: ChatRequest) -> Iterator[Delta] | None:
    return iter([Delta(request.messages[-1].content, (1,), "stop", Usage())])


@hookimpl
def train(model: LoadedModel, job: TrainJob) -> Iterator[TrainProgress] | None:
    return iter([TrainProgress(1, 1, finished=True)])


@hookimpl
def describe_backend() -> BackendInfo:
    return BackendInfo("mine", (DeviceInfo("mine", "mine", "a device"),))


@hookimpl
def describe_frontend() -> FrontendInfo:
    return FrontendInfo("mine", "a frontend", "mine:run")


def run(open_model: OpenModel, options: Mapping[str, Any]) -> None:
    with open_model() as model:
        print(model.chat("hello"), options)


class Driver(FrontendDriver):
    def ask(self, question: str) -> str:
        self.frontend.write_line(question)
        return self.frontend.read_line(0)

    def begin(self, question: str) -> None:
        self.frontend.write_line(question)

    def leave(self) -> None:
        self.frontend.interrupt()


class TestConformance(ConformanceTests):
    plugin = "mine"
    driver = Driver
    adapters = {"poet": "poet"}
'''


def check(folder: Path, cache: Path, source: str) -> subprocess.CompletedProcess[str]:
    (folder / "mine.py").write_text(source)
    command = [
        sys.executable,
        "-m",
        "mypy",
        "--strict",
        "--no-error-summary",
        f"--cache-dir={cache}",
        "mine.py",
    ]
    return run(*command, folder=folder)


def test_a_typed_plugin_passes_strict_mypy(tmp_path: Path, mypy_cache: Path) -> None:
    """``py.typed`` ships: hooks, records, the kit's class and a driver are seen with their types."""
    done = check(tmp_path, mypy_cache, PLUGIN)
    assert done.stdout == ""
    assert done.returncode == 0


def test_a_wrongly_typed_plugin_does_not(tmp_path: Path, mypy_cache: Path) -> None:
    """A wrong field, argument and return type are each found."""
    wrong = (
        PLUGIN.replace("iter([TrainProgress(1, 1, finished=True)])", 'iter([TrainProgress("1", 1)])')
        .replace("Model(source.name) if", "Model(source.path) if")
        .replace("return self.frontend.read_line(0)", "return 0")
    )
    assert len(check(tmp_path, mypy_cache, wrong).stdout.splitlines()) == 3
