"""Bring a plugin together with all that it needs to work: other plugins, a model, a device."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

from glm_core.chat_model import ChatModel
from glm_core.cli.devices import list_taken_devices
from glm_core.config import Settings
from glm_core.errors import ConfigError, GlmError, PluginError
from glm_core.models import find_adapter_directory, list_known_models, resolve
from glm_core.plugins import Candidate, PluginHost, PluginReport, list_candidates
from glm_core.records import (
    BackendInfo,
    DeviceInfo,
    FrontendInfo,
    LoadedModel,
    ModelCard,
    ModelSource,
    Option,
    Placement,
    RuntimeInfo,
    TrainerInfo,
    TrainJob,
)
from glm_core.routing import open_model
from glm_core.survey import take_survey

from .. import null_backend
from ..driver import FrontendDriver, FrontendProcess
from ..hosts import make_plugin
from ._finding import find_candidate, find_module_name
from ._imports import ImportReport, examine_import
from ._outcomes import NotApplicableError

PATIENCE = 20.0
"""Seconds that the kit waits for something that should happen: a model of another plugin may be slow."""

_NEEDED_HOOKS = {"load_model", "chat_stream", "describe_backend", "describe_models"}
_NULL_NAME = "glm_null"


class Subject:
    """A plugin under test, with the installed plugins that it needs beside it.

    Args:
        plugin: the name of its entry point, its module's path, or the module itself.
        model: what to try it on; ``None`` = a model of its own, the installed demo model, or the null model.
        device: where; ``None`` = its first available device, or the best there is.
        adapters: adapter name to its directory, for models that take adapters.
        run_options: options that the frontend needs beside those that its driver gives.
        driver: the class that talks to the frontend.
        train_options: what a short training job needs.
        predict_options: likewise for predictions.
        patience: seconds to wait for something that should happen.

    Raises:
        ConfigError: there is no such plugin.
    """

    def __init__(
        self,
        plugin: str | ModuleType,
        *,
        model: str | None = None,
        device: str | None = None,
        adapters: Mapping[str, str | Path] | None = None,
        run_options: Mapping[str, Any] | None = None,
        driver: type[FrontendDriver] | None = None,
        train_options: Mapping[str, Any] | None = None,
        predict_options: Mapping[str, Any] | None = None,
        patience: float = PATIENCE,
    ) -> None:
        self.adapters = {
            name: find_adapter_directory(name, path).resolve() for name, path in (adapters or {}).items()
        }
        self.run_options = dict(run_options or {})
        self.driver = driver
        self.train_options = dict(train_options or {})
        self.predict_options = dict(predict_options or {})
        self.patience = patience
        self.time_limit = 10 * patience  # of a whole check, which waits several times and may load a model
        self._wanted_model = model
        self._wanted_device = device
        self._candidate = find_candidate(plugin)
        self._own = replace(self._candidate, load=self._load_plugin)
        self._module = plugin
        self.module_name = find_module_name(plugin)
        self.name = self._own.name
        self._opened: ChatModel | None = None
        self._driving: FrontendDriver | None = None
        self._running = contextlib.ExitStack()

    @cached_property
    def import_report(self) -> ImportReport | None:
        """Return what importing the plugin does; ``None`` for a module that only this process has."""
        return None if self.module_name is None else examine_import(self.module_name, self.patience)

    def _load_plugin(self) -> object:
        """Import the plugin here, unless it has spoilt a process of its own already."""
        if self.import_report is not None and self.import_report.failure:
            raise PluginError(self.import_report.failure)
        return self._candidate.load()

    @cached_property
    def report(self) -> PluginReport:
        """Return what became of the plugin when it was loaded alone."""
        return self._alone.reports[0]

    @cached_property
    def _alone(self) -> PluginHost:
        return PluginHost([self._own])

    @property
    def own_devices(self) -> tuple[DeviceInfo, ...]:
        """Return the devices that it describes as a backend, or as a runtime that has some of its own."""
        infos: list[BackendInfo | RuntimeInfo] = [
            *self._alone.describe("describe_backend", BackendInfo).values(),
            *self._alone.describe("describe_runtime", RuntimeInfo).values(),
        ]
        return tuple(device for info in infos for device in info.devices)

    @property
    def hooks(self) -> tuple[str, ...]:
        """Return the hooks that it answers; none if it could not be loaded."""
        return self.report.hooks

    @cached_property
    def host(self) -> PluginHost:
        """Return the plugin with what it needs of the installed ones: backends for a runtime, and so on.

        Where it is a backend it is the only one, and where it is a runtime likewise.
        """
        taken = {"describe_backend", "load_model"} & set(self.hooks)
        if self.own_devices:
            taken.add("describe_backend")
        candidates = list_candidates()
        companions = []
        for candidate, report in zip(candidates, PluginHost(candidates).reports, strict=True):
            answered = set(report.hooks)
            if candidate.name != self.name and answered & _NEEDED_HOOKS and not answered & taken:
                companions.append(candidate)
        runtime = ("describe_runtime", "identify_model", "load_model", "chat_stream", "describe_models")
        members = [name for name in (*runtime, "place", "describe_backend") if name not in taken]
        if "describe_backend" in taken:
            members = [name for name in members if name != "place"]
        if "load_model" in taken:
            members = [name for name in members if name not in runtime]
        if self._module is not null_backend and members:
            null = make_plugin(**{name: getattr(null_backend, name) for name in members})
            companions.append(Candidate(_NULL_NAME, "glm-core", "", lambda: null))
        return PluginHost([self._own, *companions])

    def call(self, hook: str, **arguments: Any) -> Any:
        """Call one hook of the plugin and return its answer, ``None`` if it declined."""
        return self.host.call(self.name, hook, **arguments)

    def answers(self, *hooks: str) -> bool:
        """Return whether it answers all of these."""
        return set(hooks) <= set(self.hooks)

    @cached_property
    def device(self) -> DeviceInfo:
        """Return the device on which models run in these checks.

        Raises:
            NotApplicableError: the backend sees no device that could be used here.
        """
        wanted = self._wanted_device
        if wanted is None and self._places:
            devices = self.backend.devices
            there = [device for device in devices if device.available]
            if not there:
                reasons = "; ".join(f"{device.name}: {device.reason}" for device in devices)
                raise NotApplicableError(
                    f"no device of this backend is available here ({reasons or 'none seen'})"
                )
            return there[0]
        if wanted is None:
            wanted = "null" if self._wanted_model == "null" else "auto"
        return list_taken_devices(take_survey(self.host), "auto", wanted)[0]

    @property
    def backend(self) -> BackendInfo | RuntimeInfo:
        """Return its description as a backend, or as a runtime with devices of its own."""
        backends = self.host.describe("describe_backend", BackendInfo)
        if self.name in backends:
            return backends[self.name]
        runtimes = self.host.describe("describe_runtime", RuntimeInfo)
        if self.name in runtimes and runtimes[self.name].devices:
            return runtimes[self.name]
        raise NotApplicableError("it describes no devices, or another check says why its answer is unusable")

    @property
    def _places(self) -> bool:
        """Return whether it places models: as a backend, or as a runtime with devices of its own."""
        return self.answers("describe_backend") or bool(self.own_devices)

    @cached_property
    def model_name(self) -> str:
        """Return the name of the model that these checks use.

        Raises:
            NotApplicableError: the plugin takes none of those that are there.
        """
        if self._wanted_model is not None:
            return self._wanted_model
        tried = []
        for name in self._list_likely_models():
            if self._takes(name):
                return name
            tried.append(name)
        raise NotApplicableError(
            f"it takes none of the models {', '.join(tried) or 'that are here'}; "
            "name one that it runs with --glm-model"
        )

    def _list_likely_models(self) -> list[str]:
        cards = self.host.describe_many("describe_models", ModelCard)
        own = [
            card.name
            for card in cards.get(self.name, ())
            if card.path or not (card.hub_id or card.modelscope_id)
        ]
        known = [card.name for card in list_known_models(self.host) if card.name in ("demo", "null")]
        return list(dict.fromkeys([*own, *known]))

    def _takes(self, name: str) -> bool:
        """Return whether the plugin's own hooks accept a model."""
        device = "null" if name == "null" and not self._places else self.device.name
        try:
            model = self._load(name, device)
        except GlmError:
            return False
        if model is None:
            return False
        with contextlib.closing(model):
            if self.answers("place"):
                return self.call("place", model=model, placement=Placement((device,))) is not None
            return not self.answers("train") or self._trains(model)

    def _trains(self, model: LoadedModel) -> bool:
        with tempfile.TemporaryDirectory() as folder:
            try:
                job = TrainJob(self.trainer_info.name, Path(folder), {}, (self.device.name,))
                return self.call("train", model=model, job=job) is not None
            except ConfigError:  # of the missing options: otherwise it would
                return True

    def find_source(self, name: str | None = None) -> ModelSource:
        """Return what ``load_model`` is called with."""
        resolved = resolve(self.host, name or self.model_name, offline=True)
        return ModelSource(resolved.name, resolved.path, self.adapters)

    def _load(self, name: str, device: str, *, adapters: bool = False) -> LoadedModel | None:
        source = self.find_source(name) if adapters else replace(self.find_source(name), adapters={})
        runtimes = [self.name] if self.answers("load_model") else self.host.list_answering("load_model")
        for runtime in runtimes:
            if self.host.call(runtime, "identify_model", source=source) is None:
                continue
            model: LoadedModel | None = self.host.call(
                runtime, "load_model", source=source, device=device, dtype="float32"
            )
            if model is not None:
                return model
        return None

    def load_fresh(self) -> LoadedModel:
        """Return a fresh model of ``load_model``, before ``place``; the caller closes it."""
        model = self._load(self.model_name, self.make_settings().device, adapters=True)
        if model is None:
            raise NotApplicableError(f"no runtime here opens {self.model_name!r}")
        return model

    def make_settings(self, **changes: Any) -> Settings:
        """Return how to open the model, with changes."""
        device = self._wanted_device
        if device is None and self.model_name == "null" and not self._places:
            device = "null"
        return Settings(
            **{"model": self.model_name, "device": device or self.device.name, "offline": True, **changes}
        )

    def open(self, *, adapters: Mapping[str, Path] | None = None, **changes: Any) -> ChatModel:
        """Open the model through every stage, as ``glm run`` does; the caller closes it."""
        chosen = self.adapters if adapters is None else adapters
        return open_model(self.host, self.make_settings(**changes), adapters=chosen)

    @property
    def model(self) -> ChatModel:
        """Return one open model, shared by the checks that do not change it."""
        if self._opened is None:
            self._opened = self.open()
        return self._opened

    @contextlib.contextmanager
    def open_fresh(self, **changes: Any) -> Iterator[ChatModel]:
        """Open a model of one check's own, and close it at the end of the block."""
        with self.open(**changes) as model:
            yield model

    @property
    def frontend_info(self) -> FrontendInfo:
        """Return its description as a frontend."""
        described = self.host.describe("describe_frontend", FrontendInfo)
        if self.name not in described:
            raise NotApplicableError("describe_frontend has no usable answer; another check says why")
        return described[self.name]

    @contextlib.contextmanager
    def open_frontend_process(self) -> Iterator[FrontendProcess]:
        """Yield a process for the frontend, not started yet."""
        info = self.frontend_info
        with tempfile.TemporaryDirectory(prefix="glm-conformance-", ignore_cleanup_errors=True) as folder:
            options = convert_options(info.options, self.run_options)
            process = FrontendProcess(info.run, options, Path(folder), self.patience)
            try:
                yield process
            finally:
                process.kill()

    @property
    def frontend(self) -> FrontendDriver:
        """Return one running frontend, shared by the checks that leave it running.

        Raises:
            NotApplicableError: nobody said how to talk to it.
        """
        if self.driver is None:
            raise NotApplicableError("no driver is given; name one with --glm-driver MODULE:CLASS")
        if self._driving is not None and self._driving.frontend.process.poll() is not None:
            self.forget_frontend()  # its last user has gone, and it with them
        if self._driving is None:
            process = self._running.enter_context(self.open_frontend_process())
            driver = self.driver(process, process.reserve_port())
            try:
                driver.start()
            except BaseException:
                self.forget_frontend()
                raise
            self._running.callback(driver.close)
            self._driving = driver
        return self._driving

    def forget_frontend(self) -> None:
        """End the shared frontend; the next check gets another."""
        self._driving = None
        self._running.close()

    @property
    def trainer_info(self) -> TrainerInfo:
        """Return its description as a trainer."""
        described = self.host.describe("describe_trainer", TrainerInfo)
        if self.name not in described:
            raise NotApplicableError("describe_trainer has no usable answer; another check says why")
        return described[self.name]

    def fill_trainer_options(
        self, kind: Literal["options", "predict_options"], given: Mapping[str, Any]
    ) -> dict[str, Any]:
        """Return values of the described options, and of further ones that are given as text."""
        return convert_options(getattr(self.trainer_info, kind), given)

    def close(self) -> None:
        """Close what is open."""
        if self._opened is not None:
            self._opened.close()
            self._opened = None
        self.forget_frontend()


def convert_options(options: tuple[Option, ...], given: Mapping[str, Any]) -> dict[str, Any]:
    """Return option values as core hands them to a plugin: defaults, and text in the described type.

    Raises:
        ConfigError: a text is no value of that type.
    """
    values = {option.name: option.default for option in options}
    types = {option.name: option.type for option in options}
    for name, value in given.items():
        kind = types.get(name, str)
        try:
            if isinstance(value, str) and kind is bool:
                value = {"true": True, "1": True, "false": False, "0": False}[value.lower()]
            values[name] = kind(value) if isinstance(value, str) else value
        except (KeyError, ValueError):
            raise ConfigError(f"option {name}: {value!r} is no {kind.__name__}") from None
    return values
