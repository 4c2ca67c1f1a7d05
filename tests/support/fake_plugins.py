"""Plugins made in a line, and packages made on disk, for tests of the core."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

from child_process import clean_environment, run

from glm_core import ModelInfo, Sampling, hookimpl
from glm_core._device_choice import require_one
from glm_core.pairing import check_wishes
from glm_core.plugins import API_VERSION, Candidate, PluginHost
from glm_core.records import BackendInfo, DeviceInfo, LoadedModel, ModelMatch, RuntimeInfo
from glm_core.survey import Survey


def plugin(*, api_version: object = API_VERSION, **hooks: Callable[..., Any]) -> ModuleType:
    """A plugin module with the given functions as its hooks."""
    module = ModuleType("fake_plugin")
    vars(module)["GLM_API_VERSION"] = api_version
    for name, function in hooks.items():
        setattr(module, name, hookimpl(function))
    return module


def backend(
    *devices: DeviceInfo,
    priority: int = 0,
    schemes: tuple[str, ...] = (),
    kernels: tuple[str, ...] = (),
    place: Callable[..., Any] = lambda model: model,
    quantize: Callable[..., Any] = lambda model: model,
) -> ModuleType:
    """A backend that accepts every model as it is."""
    info = BackendInfo("fake", devices, priority, schemes, kernels, kinds=("fake",))
    return plugin(describe_backend=lambda: info, place=place, quantize=quantize)


def choose_devices(
    survey: Survey, wanted: str, notify: Callable[[str], None] = lambda line: None
) -> tuple[str, tuple[DeviceInfo, ...]]:
    """The plugin and the devices that ``--device`` means where no model is looked at."""
    route = require_one(survey, check_wishes(survey, "auto", wanted))
    if wanted == "auto":
        notify(route.explain())
    return route.placer.plugin, route.devices


class FakeModel:
    """What a runtime's ``load_model`` returns, with nothing in it."""

    def __init__(self, adapters: tuple[str, ...] = ()) -> None:
        self.closed = 0
        self.info = ModelInfo("fake", "fake", 0, 16, Sampling(), adapters)

    def close(self) -> None:
        """Count the calls."""
        self.closed += 1


def runtime(model: LoadedModel | None, chat_stream: Callable[..., Any] = lambda request: None) -> ModuleType:
    """A runtime that loads ``model`` whatever the source is."""
    match = None if model is None else ModelMatch("fake", "it takes everything")
    return loader(lambda source: model, lambda source: match, chat_stream=chat_stream)


def loader(
    load_model: Callable[..., Any],
    identify_model: Callable[..., Any] = lambda source: ModelMatch("fake", "it is asked to"),
    **hooks: Callable[..., Any],
) -> ModuleType:
    """A runtime with this ``load_model``, whose models the fake backend places."""
    info = RuntimeInfo("fake")
    return plugin(
        describe_runtime=lambda: info, identify_model=identify_model, load_model=load_model, **hooks
    )


def host_loading(load: Callable[[], object], *, name: str = "broken") -> PluginHost:
    """A host of one plugin that is loaded by ``load``."""
    return PluginHost([Candidate(name, f"glm-{name}", "1.2.3", load)])


def write_package(
    folder: Path, module: str, source: str, *, version: str = "1.0", entry_points: str | None = None
) -> None:
    """An installed package, as an installer leaves it: a module and a ``.dist-info`` directory."""
    info = folder / f"glm_{module}-{version}.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: glm-{module}\nVersion: {version}\n")
    points = f"[glm.plugins]\n{module} = {module}\n" if entry_points is None else entry_points
    (info / "entry_points.txt").write_text(points)
    (folder / f"{module}.py").write_text(source)


def run_python(
    *arguments: str | Path,
    folder: Path | None = None,
    environ: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    input: str = "",
) -> subprocess.CompletedProcess[str]:
    """Run Python as a user would, with no settings of ours.

    Args:
        arguments: of the interpreter.
        folder: what is among the installed packages besides ours.
        environ: variables to set.
        cwd: where it runs.
        input: what it reads.
    """
    settings = {"XDG_CONFIG_HOME": str(folder), "PYTHONPATH": str(folder)} if folder else {}
    environment = clean_environment(**settings | dict(environ or {}))
    return run(sys.executable, *arguments, environment=environment, folder=cwd, input=input)


def run_glm(*arguments: str | Path, **options: Any) -> subprocess.CompletedProcess[str]:
    """Run the ``glm`` command in a process of its own; see `run_python` for the options."""
    return run_python("-m", "glm_core", *arguments, **options)
