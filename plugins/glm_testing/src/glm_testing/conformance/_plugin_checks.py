"""Checks of what every plugin promises, and of what it says of itself."""

from __future__ import annotations

import dataclasses
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from glm_core.errors import GlmError
from glm_core.records import BackendInfo, ModelCard, ModelMatch, RuntimeInfo

from .._foreign import make_foreign_calls, make_foreign_sources
from .._import_process import DESCRIPTIONS
from ._imports import ImportReport
from ._outcomes import NotApplicableError, expect
from ._promises import check

if TYPE_CHECKING:
    from .subject import Subject

DESCRIBING = tuple(sorted([*DESCRIPTIONS, "describe_models"]))
"""The hooks by which a plugin says what it is."""


@check("loads", "the module imports, states the API version, and its hooks have the right shape")
def check_loads(subject: Subject) -> None:
    """Check that core admits it."""
    expect(subject.report.status == "ok", f"it is {subject.report.status}: {subject.report.reason}")


@check("light-import", "importing the plugin loads nothing heavy")
def check_light_import(subject: Subject) -> None:
    """Check that a fresh process that imported it has no torch and the like."""
    found = _require_import_report(subject).heavy_at_import
    expect(
        not found,
        f"importing {subject.module_name} loads {', '.join(found)}; import them inside the hooks",
    )


@check(
    "light-descriptions",
    "describe hooks load nothing heavy",
    *DESCRIBING,
)
def check_light_descriptions(subject: Subject) -> None:
    """Check that a fresh process that asked for all descriptions has no torch and the like."""
    found = _require_import_report(subject).heavy_in_descriptions
    expect(not found, f"its descriptions load {', '.join(found)}, which slows every command")


@check("light-identification", "identify_model loads nothing heavy", "identify_model")
def check_light_identification(subject: Subject) -> None:
    """Check that a fresh process that asked it about models of nobody has no torch and the like."""
    found = _require_import_report(subject).heavy_in_identification
    expect(not found, f"identify_model loads {', '.join(found)} to decline what is not its own")


@check("no-side-effects", "importing the plugin and asking what it is change nothing in the process")
def check_no_side_effects(subject: Subject) -> None:
    """Check working directory, locale, environment, streams, signals and threads of a fresh process."""
    effects = _require_import_report(subject).effects
    expect(not effects, f"it {'; it '.join(effects)}")


@check(
    "descriptions",
    "describe hooks answer with the records that they are made for",
    *DESCRIBING,
)
def check_descriptions(subject: Subject) -> None:
    """Check that each answer has the type that the hook's signature names."""
    for hook, answer in _collect_descriptions(subject).items():
        record = DESCRIPTIONS.get(hook)
        if record is not None:
            expect(isinstance(answer, record), f"{hook} answers {answer!r}; expected a {record.__name__}")
        else:
            cards = isinstance(answer, (tuple, list)) and all(isinstance(card, ModelCard) for card in answer)
            expect(cards, f"{hook} answers {answer!r}; expected a tuple of ModelCard")
    for (
        hook,
        record,
    ) in DESCRIPTIONS.items():  # core refuses what has no hook
        subject.host.describe(hook, record)
    (report,) = (report for report in subject.host.reports if report.name == subject.name)
    expect(report.status == "ok", f"it {report.reason}")


@check(
    "descriptions-repeat",
    "describe hooks answer the same as long as nothing changes",
    *DESCRIBING,
)
def check_descriptions_repeat(subject: Subject) -> None:
    """Check that two calls in a row agree, free memory aside."""
    first, second = (_drop_free_memory(_collect_descriptions(subject)) for _ in range(2))
    for hook in first:
        expect(first[hook] == second[hook], f"{hook} first answers {first[hook]!r}, then {second[hook]!r}")


@check("devices", "devices are named once, and absent ones say why", "describe_backend", "describe_runtime")
def check_devices(subject: Subject) -> None:
    """Check that what people read in ``glm devices`` is usable."""
    described = subject.backend
    names = [device.name for device in described.devices]
    expect(len(set(names)) == len(names), f"a device is named twice: {', '.join(names)}")
    expect(names, "it names no device; name the one that is absent, and why, so that users can mend it")
    for device in described.devices:
        expect(device.label.strip(), f"device {device.name} has no label")
        expect(device.available or device.reason, f"device {device.name} is not available and says no reason")
        free, total = device.free_memory_bytes, device.memory_bytes
        expect(
            free >= 0 and total >= 0 and (free <= total or total == 0),
            f"device {device.name} has {device.memory_bytes} bytes of memory, "
            f"{device.free_memory_bytes} of them free",
        )


@check("model-cards", "named models have one name each, and shipped ones are there", "describe_models")
def check_model_cards(subject: Subject) -> None:
    """Check that every path is a directory and no name or alias stands twice."""
    cards = _collect_descriptions(subject)["describe_models"]
    if not isinstance(cards, (tuple, list)):
        raise NotApplicableError("describe_models has no usable answer; another check says why")
    names = [name for card in cards for name in (card.name, *card.aliases)]
    twice = sorted({name for name in names if names.count(name) > 1})
    expect(not twice, f"two models are called {', '.join(twice)}")
    for card in cards:
        expect(card.summary.strip(), f"model {card.name} has no summary")
        expect(
            card.path is None or card.path.is_dir(),
            f"model {card.name} is said to be in {card.path}, which is no directory",
        )


@check("declines-sources", "sources that it does not know are declined with None", "identify_model")
def check_declines_sources(subject: Subject) -> None:
    """Check that it leaves what is not its own to other runtimes."""
    with tempfile.TemporaryDirectory() as folder:
        for what, source in make_foreign_sources(Path(folder)).items():
            try:
                match = subject.call("identify_model", source=source)
            except GlmError as error:
                expect(False, f"identify_model raises for {what}: {error}")
            expect(match is None, f"identify_model accepts {what}: {match!r}")


@check("identifies", "a model that it opens it has identified before", "identify_model")
def check_identifies(subject: Subject) -> None:
    """Check that it knows the model that it opens, and says the same each time."""
    match = subject.call("identify_model", source=subject.find_source())
    expect(
        isinstance(match, ModelMatch),
        f"identify_model answers {match!r} for {subject.model_name!r}, which load_model opens",
    )
    again = subject.call("identify_model", source=subject.find_source())
    expect(match == again, f"identify_model first answers {match!r}, then {again!r}")


@check("kinds", "a backend names the kinds of models that it places", "describe_backend")
def check_kinds(subject: Subject) -> None:
    """Check that there are some, since core asks it for models of these kinds only."""
    described = _collect_descriptions(subject)["describe_backend"]
    if not isinstance(described, BackendInfo):
        raise NotApplicableError("describe_backend answers with no BackendInfo; another check says so")
    expect(described.kinds, "BackendInfo.kinds is empty; no model reaches it, not even one of kind 'torch'")


@check(
    "declines-models",
    "models of another runtime are declined with None",
    "quantize",
    "place",
    "chat_stream",
    "train",
    "predict",
    "quantize_checkpoint",
)
def check_declines_models(subject: Subject) -> None:
    """Check that it declines, so that core can say who cannot work with whom."""
    with tempfile.TemporaryDirectory() as folder:
        for hook, arguments in make_foreign_calls(Path(folder), _pick_device(subject)).items():
            if not subject.answers(hook):
                continue
            try:
                answer = subject.call(hook, **arguments)
            except GlmError as error:
                expect(False, f"{hook} raises for another runtime's model: {error}")
            expect(answer is None, f"{hook} accepts another runtime's model: {answer!r}")


def _pick_device(subject: Subject) -> str:
    return next((device.name for device in subject.own_devices), "cpu")


def _collect_descriptions(subject: Subject) -> dict[str, Any]:
    """Return the plugin's own answers to all describe hooks."""
    return {hook: subject.call(hook) for hook in subject.hooks if hook.startswith("describe_")}


def _drop_free_memory(described: dict[str, Any]) -> dict[str, Any]:
    """Return the answers without what may change from one moment to the next."""
    for hook, info in described.items():
        if isinstance(info, (BackendInfo, RuntimeInfo)):
            still = tuple(dataclasses.replace(device, free_memory_bytes=0) for device in info.devices)
            described[hook] = dataclasses.replace(info, devices=still)
    return described


def _require_import_report(subject: Subject) -> ImportReport:
    if subject.import_report is None:
        raise NotApplicableError("the plugin is no module that another process could import")
    if subject.report.status != "ok":
        raise NotApplicableError("the plugin cannot be loaded; another check says why")
    return subject.import_report
