"""Every plugin of ours passes the conformance kit."""

from __future__ import annotations

import json
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar

import torch
from frontend_drivers import HttpDriver, OneQuestionDriver, PageDriver, TerminalDriver
from glm_testing import null_backend, null_frontend, null_trainer
from glm_testing.conformance import ConformanceTests
from tiny_models import tiny_checkpoint

import glm_core

PLUGINS = Path(__file__).parents[2] / "plugins"


class TestNullBackend(ConformanceTests):
    """The null runtime and backend, with an adapter."""

    plugin = null_backend  # type: ignore[misc]

    @classmethod
    def prepare(cls, folder: Path) -> dict[str, Any]:
        """Its adapter says a word."""
        (folder / "adapter.txt").write_text("Ahoy!")
        return {"adapters": {"poet": folder}}


class TestNullFrontend(ConformanceTests):
    """The null frontend."""

    plugin = null_frontend  # type: ignore[misc]
    driver = OneQuestionDriver


class TestNullTrainer(ConformanceTests):
    """The null trainer, on six lines."""

    plugin = null_trainer  # type: ignore[misc]

    @classmethod
    def prepare(cls, folder: Path) -> dict[str, Any]:
        """Its data is a file of words."""
        file = folder / "words.txt"
        file.write_text("one two\nthree\nfour five\nsix\nseven\neight nine\n")
        return {"train_options": {"train_file": str(file)}, "predict_options": {"test_file": str(file)}}


class TestModelDemo(ConformanceTests):
    """The package of the demo model."""

    plugin = "model_demo"


class TestRuntimeTorch(ConformanceTests):
    """The torch runtime on the demo model, with an adapter of random numbers."""

    plugin = "runtime_torch"

    @classmethod
    def prepare(cls, folder: Path) -> dict[str, Any]:
        """Its adapter is a prefix of four positions."""
        return {"adapters": {"prefix": prefix_for(glm_core.resolve_model("demo"), folder)}}


class TestBackendCpu(ConformanceTests):
    """The processor, on the demo model."""

    plugin = "backend_cpu"


class TestBackendCuda(ConformanceTests):
    """NVIDIA's GPUs; without one, what needs none."""

    plugin = "backend_cuda"


class TestBackendMps(ConformanceTests):
    """Apple's GPUs; without one, what needs none."""

    plugin = "backend_mps"


class TestFrontendCli(ConformanceTests):
    """The terminal chat, on pipes."""

    plugin = "frontend_cli"
    driver = TerminalDriver


class TestFrontendApi(ConformanceTests):
    """The HTTP API."""

    plugin = "frontend_api"
    driver = HttpDriver


class TestFrontendWeb(ConformanceTests):
    """The page in the browser, by the requests that a browser sends."""

    plugin = "frontend_web"
    driver = PageDriver
    patience = 60.0  # gradio takes its time to start where much else runs


class TestPtuning(ConformanceTests):
    """P-Tuning v2, a few steps on a tiny model."""

    plugin = "ptuning"
    columns: ClassVar[dict[str, str]] = {"prompt_column": "content", "response_column": "summary"}
    steps: ClassVar[dict[str, Any]] = {
        "pre_seq_len": 4,
        "max_steps": 6,
        "logging_steps": 1,
        "save_steps": 2,
        "per_device_train_batch_size": 2,
        "max_source_length": 32,
        "max_target_length": 16,
        "learning_rate": 0.01,
        "report_to": "none",
    }

    @classmethod
    def prepare(cls, folder: Path) -> dict[str, Any]:
        """Twelve rows of questions and answers."""
        model = tiny_checkpoint(folder / "tiny")
        file = folder / "rows.json"
        rows = [{"content": f"hello world {number}", "summary": "how do I"} for number in range(12)]
        file.write_text("\n".join(json.dumps(row) for row in rows))
        return {
            "model": str(model),
            "train_options": {"train_file": str(file), **cls.columns, **cls.steps},
            "predict_options": {"test_file": str(file), **cls.columns, "max_target_length": 8},
        }


def prefix_for(model: Path, folder: Path) -> Path:
    """Write a prefix adapter of random numbers for a ChatGLM-6B model of any size."""
    config = json.loads((model / "config.json").read_text("utf-8"))
    width = 2 * config["num_layers"] * config["hidden_size"]
    weights = 30 * torch.randn(4, width, generator=torch.Generator().manual_seed(0))
    name = "transformer.prefix_encoder.embedding.weight"
    torch.save({name: weights}, folder / "pytorch_model.bin")
    adapted = {**config, "pre_seq_len": 4, "prefix_projection": False}
    (folder / "config.json").write_text(json.dumps(adapted), "utf-8")
    return folder


def test_every_plugin_of_this_repository_is_checked() -> None:
    """Each package in ``plugins/`` that answers hooks has a class above, and so have the null plugins."""
    classes = ConformanceTests.__subclasses__()
    ours = {kind.plugin for kind in classes if kind.__module__ == __name__}
    modules = {plugin.__name__ for plugin in ours if isinstance(plugin, ModuleType)}
    assert {plugin for plugin in ours if isinstance(plugin, str)} == {
        path.parents[2].name.removeprefix("glm_") for path in PLUGINS.glob("*/src/*/plugin.py")
    }
    assert modules == {f"glm_testing.null_{kind}" for kind in ("backend", "frontend", "trainer")}
