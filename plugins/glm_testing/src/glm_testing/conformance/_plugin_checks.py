"""What every plugin promises, and what it says of itself."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from glm_core.errors import GlmError
from glm_core.records import BackendInfo, ModelCard, ModelMatch, RuntimeInfo

from .._import_probe import DESCRIPTIONS
from ._foreign import foreign_calls, foreign_sources
from ._promises import NotApplicableError, check, expect

if TYPE_CHECKING:
    from .subject import Subject

_PROBE_SECONDS = 120


@check("loads", "the module imports, states the API version, and its hooks have the right shape")
def loads(subject: Subject) -> None:
    """Core admits it."""
    expect(subject.report.status == "ok", f"it is {subject.report.status}: {subject.report.reason}")


@check("light-import", "importing the plugin loads nothing heavy")
def light_import(subject: Subject) -> None:
    """A fresh process that imported it has no torch and the like."""
    found = _probed(subject)["imported"]
    expect(
        not found,
        f"importing {subject.module_name} loads {', '.join(found)}; import them inside the hooks",
    )


@check(
    "light-descriptions",
    "describe hooks load nothing heavy",
    "describe_backend",
    "describe_frontend",
    "describe_models",
    "describe_runtime",
    "describe_trainer",
)
def light_descriptions(subject: Subject) -> None:
    """A fresh process that asked for all descriptions has no torch and the like."""
    probed = _probed(subject)
    found = [name for name in probed["described"] if name not in probed["imported"]]
    expect(not found, f"its descriptions load {', '.join(found)}, which slows every command")


@check("no-side-effects", "importing the plugin and asking what it is change nothing in the process")
def no_side_effects(subject: Subject) -> None:
    """Core remarks on nothing."""
    remarks = [remark for remark in _probed(subject)["remarks"] if "before use" not in remark]
    expect(not remarks, f"it {'; it '.join(remarks)}")


@check(
    "descriptions",
    "describe hooks answer with the records that they are made for",
    "describe_backend",
    "describe_frontend",
    "describe_models",
    "describe_runtime",
    "describe_trainer",
)
def descriptions(subject: Subject) -> None:
    """Each answer has the type that the hook's signature names."""
    for hook, answer in _described(subject).items():
        record = DESCRIPTIONS.get(hook)
        if record is not None:
            expect(isinstance(answer, record), f"{hook} answers {answer!r}; expected a {record.__name__}")
        else:
            cards = isinstance(answer, (tuple, list)) and all(isinstance(card, ModelCard) for card in answer)
            expect(cards, f"{hook} answers {answer!r}; expected a tuple of ModelCard")


@check(
    "descriptions-repeat",
    "describe hooks answer the same as long as nothing changes",
    "describe_backend",
    "describe_frontend",
    "describe_models",
    "describe_runtime",
    "describe_trainer",
)
def descriptions_repeat(subject: Subject) -> None:
    """Two calls in a row agree, free memory aside."""
    first, second = (_settled(_described(subject)) for _ in range(2))
    for hook in first:
        expect(first[hook] == second[hook], f"{hook} first answers {first[hook]!r}, then {second[hook]!r}")


@check("devices", "devices are named once, and absent ones say why", "describe_backend", "describe_runtime")
def devices(subject: Subject) -> None:
    """What people read in ``glm devices`` is usable."""
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
def model_cards(subject: Subject) -> None:
    """Every path is a directory and no name or alias stands twice."""
    cards = _described(subject)["describe_models"]
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
def declines_sources(subject: Subject) -> None:
    """Another runtime may know them."""
    with tempfile.TemporaryDirectory() as folder:
        for what, source in foreign_sources(Path(folder)).items():
            try:
                match = subject.call("identify_model", source=source)
            except GlmError as error:
                expect(False, f"identify_model raises for {what}: {error}")
            expect(match is None, f"identify_model accepts {what}: {match!r}")


@check("identifies", "a model that it opens it has identified before", "identify_model")
def identifies(subject: Subject) -> None:
    """Core finds backends by the kind, and asks for a model only who knows it."""
    match = subject.call("identify_model", source=subject.source())
    expect(
        isinstance(match, ModelMatch),
        f"identify_model answers {match!r} for {subject.model_name!r}, which load_model opens",
    )


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
def declines_models(subject: Subject) -> None:
    """Core then says who cannot work with whom."""
    with tempfile.TemporaryDirectory() as folder:
        for hook, arguments in foreign_calls(Path(folder), _any_device(subject)).items():
            if not subject.answers(hook):
                continue
            try:
                answer = subject.call(hook, **arguments)
            except GlmError as error:
                expect(False, f"{hook} raises for another runtime's model: {error}")
            expect(answer is None, f"{hook} accepts another runtime's model: {answer!r}")


def _any_device(subject: Subject) -> str:
    return next((device.name for device in subject.own_devices), "cpu")


def _described(subject: Subject) -> dict[str, Any]:
    """The plugin's own answers to all describe hooks."""
    return {hook: subject.call(hook) for hook in subject.hooks if hook.startswith("describe_")}


def _settled(described: dict[str, Any]) -> dict[str, Any]:
    """Without what may change from one moment to the next."""
    for hook, info in described.items():
        if isinstance(info, (BackendInfo, RuntimeInfo)):
            still = tuple(dataclasses.replace(device, free_memory_bytes=0) for device in info.devices)
            described[hook] = dataclasses.replace(info, devices=still)
    return described


def _probed(subject: Subject) -> dict[str, list[str]]:
    """What a process of its own saw; looked at once."""
    if subject.module_name is None:
        raise NotApplicableError("the plugin is no module that another process could import")
    if subject.report.status != "ok":
        raise NotApplicableError("the plugin cannot be loaded; another check says why")
    if subject.probed is None:
        done = subprocess.run(  # noqa: S603  # this very interpreter
            [sys.executable, "-m", "glm_testing._import_probe", subject.module_name],
            env={**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)},
            capture_output=True,
            text=True,
            timeout=_PROBE_SECONDS,
            check=False,
        )
        said = done.stderr.strip().splitlines()
        expect(done.returncode == 0, f"it ends a process that imports it: {said[-1] if said else ''}")
        subject.probed = json.loads(done.stdout)
    return subject.probed
