"""Tests of ``glm doctor``."""

from __future__ import annotations

import importlib.util
import json
import shutil
import time
from collections import Counter
from importlib import metadata
from pathlib import Path
from types import SimpleNamespace

import pytest
from fake_plugins import backend, plugin
from glm_testing import make_host, null_backend, null_frontend

from glm_core import cli
from glm_core.cli import doctor
from glm_core.plugins import Candidate, PluginHost
from glm_core.records import BackendInfo, DeviceInfo, ModelCard, Option, RuntimeInfo, TrainerInfo

Findings = dict[str, tuple[str, str]]


@pytest.fixture(autouse=True)
def machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A machine with room on its disk and an empty cache folder."""
    monkeypatch.setenv("HF_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=10**12))


def examine(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], host: PluginHost
) -> tuple[int, Findings]:
    """Exit status, and verdict and message of each check."""
    monkeypatch.setattr(doctor, "get_default_host", lambda: host)
    status = cli.main(["doctor", "--json"])
    found = json.loads(capsys.readouterr().out)
    return status, {finding["check"]: (finding["verdict"], finding["message"]) for finding in found}


def healthy(**more: object) -> PluginHost:
    """A host on which a model can run."""
    return make_host(backend=null_backend, frontend=null_frontend, **more)


def test_healthy_installation_has_no_fault(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """Status 0; every check is there, in the order in which a person would look."""
    cards = (ModelCard("small", "", path=tmp_path),)
    status, found = examine(monkeypatch, capsys, healthy(models=plugin(describe_models=lambda: cards)))
    assert status == 0
    assert "fault" not in [verdict for verdict, _ in found.values()]
    assert list(found) == [
        *("python", "torch", "transformers", "settings"),
        *("plugin backend", "plugin frontend", "plugin models"),
        *("a runtime", "a backend", "a frontend", "device", "model small", "cache"),
    ]
    assert found["device"] == ("ok", "auto takes null, no hardware at all")
    assert found["cache"] == ("ok", f"{tmp_path}/cache, 1000 GB free")


def test_settings_that_no_command_could_follow_are_a_fault(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A runtime that the environment names and nobody has would stop every command."""
    monkeypatch.setenv("GLM_RUNTIME", "nonsense")
    status, found = examine(monkeypatch, capsys, healthy())
    assert status == 2
    assert found["device"] == ("fault", "runtime 'nonsense' is unknown; choose one of: auto, null")


def test_runtime_beside_another_is_no_fault(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Two that take different models may have devices of one priority."""
    device = DeviceInfo("own", "own", "an engine")
    other = plugin(
        describe_runtime=lambda: RuntimeInfo("other", "", (device,)),
        identify_model=lambda: None,
        load_model=lambda: None,
        place=lambda: None,
    )
    status, found = examine(
        monkeypatch, capsys, healthy(other=other, b=backend(DeviceInfo("npu", "npu", "")))
    )
    assert status == 0
    assert found["device"][0] == "ok"
    assert found["device"][1].startswith("auto takes npu,  or own, an engine")


@pytest.mark.parametrize(
    ("described", "missing"),
    [
        (BackendInfo("b", (DeviceInfo("npu", "npu", ""),), kinds=("k",)), "place"),
        (BackendInfo("b", (), schemes=("int8",), kinds=("k",)), "quantize"),
        (RuntimeInfo("r", devices=(DeviceInfo("npu", "npu", ""),)), "place"),
        (RuntimeInfo("r", schemes=("int4",)), "quantize"),
        (TrainerInfo("t", "", predict_options=(Option("file", ""),)), "predict"),
    ],
)
def test_description_of_what_has_no_hook_is_a_fault(
    described: object, missing: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """What is described would be chosen and then fail; the author is told which hook is missing."""
    kind = type(described).__name__.removesuffix("Info").lower()
    hooks = {"identify_model": lambda: None, "load_model": lambda: None} if kind == "runtime" else {}
    hollow = plugin(**{f"describe_{kind}": lambda: described, **hooks})
    status, found = examine(monkeypatch, capsys, healthy(hollow=hollow))
    assert status == 2
    verdict, message = found["plugin hollow"]
    assert verdict == "fault"
    assert f"does not answer {missing}" in message


@pytest.mark.parametrize("end", ["", ".", "?", "!"])
def test_reason_and_advice_are_two_sentences(
    end: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """However the reason ends, one mark stands before the advice."""

    def fail() -> object:
        raise RuntimeError(f"is the driver there{end}")

    host = PluginHost([*([Candidate("x", "glm-x", "1", fail)])])
    _, found = examine(monkeypatch, capsys, host)
    assert f"is the driver there{end or '.'} Update it" in found["plugin x"][1]


def test_report_for_people_has_a_line_a_check(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The verdict stands in front, so that a fault is seen."""
    monkeypatch.setattr(doctor, "get_default_host", healthy)
    assert cli.main(["doctor"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "ok     plugin backend: glm-backend 0" in lines
    assert all(line.startswith(("ok     ", "note   ")) for line in lines)


def test_plugin_that_does_what_it_should_not_is_a_note(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its hooks are used, so nothing is broken; two plugins with one model are told apart."""
    twin = plugin(describe_models=lambda: (ModelCard("null", "mine"),))
    status, found = examine(monkeypatch, capsys, healthy(twin=twin))
    assert status == 0
    assert found["plugin twin"] == (
        "note",
        "glm-twin 0; describes model 'null', as backend does, which comes first",
    )


def test_slow_plugin_is_a_note_with_its_time(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Whoever waits for every command finds out for whom; the time is the plugin's own, not the clock's."""
    now = [0.0]
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])

    def describe() -> tuple[ModelCard, ...]:
        now[0] += 2.25
        return ()

    status, found = examine(monkeypatch, capsys, healthy(slow=plugin(describe_models=describe)))
    assert status == 0
    assert found["plugin slow"][0] == "note"
    assert "describe_models takes 2.2 s" in found["plugin slow"][1]
    assert found["plugin backend"][0] == "ok"


def test_broken_plugin_is_a_fault_with_advice(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Named with its package, version and reason, and what to type."""

    def fail() -> object:
        raise ImportError("no luck")

    candidates = [
        Candidate("backend", "glm-backend", "1", lambda: null_backend),
        Candidate("frontend", "glm-frontend", "1", lambda: null_frontend),
        Candidate("bad", "glm-bad", "0.7", fail),
        Candidate("off", "glm-off", "1", fail),
    ]
    status, found = examine(monkeypatch, capsys, PluginHost(candidates, deny=["off"]))
    assert status == 2
    assert found["plugin bad"] == (
        "fault",
        "glm-bad 0.7 is broken: import failed: ImportError: no luck. Update it, or pip uninstall glm-bad.",
    )
    assert found["plugin off"] == ("note", "listed in GLM_DISABLE_PLUGINS")


def test_plugin_that_cannot_describe_itself_is_a_fault(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A plugin that loads and then fails is found too."""
    status, found = examine(monkeypatch, capsys, healthy(bad=plugin(describe_trainer=lambda: "x")))
    assert status == 2
    assert found["plugin bad"][1].startswith(
        "glm-bad 0 is broken: describe_trainer: returned 'x'; one TrainerInfo"
    )


def test_missing_stages_are_faults_with_their_packages(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Core alone cannot run anything; each missing piece is named with what to install."""
    status, found = examine(monkeypatch, capsys, make_host())
    assert status == 2
    assert found["a runtime"] == ("fault", "none is installed or works: pip install glm-runtime-torch")
    assert found["a backend"] == ("fault", "none is installed or works: pip install glm-backend-cpu")
    assert found["a frontend"] == ("fault", "none is installed or works: pip install glm-frontend-cli")
    assert found["device"][0] == "fault"
    assert found["models"] == ("note", "no model is installed; pip install glm-model-demo for the demo")


def test_device_of_the_settings_is_the_one_that_is_checked(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """``GLM_DEVICE=cuda`` on a machine without one is what is wrong."""
    monkeypatch.setenv("GLM_DEVICE", "cuda")
    status, found = examine(monkeypatch, capsys, healthy())
    assert status == 2
    assert found["device"][0] == "fault"
    assert "pip install glm-backend-cuda" in found["device"][1]


def test_wrong_settings_are_a_fault_and_not_the_end(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """What does not depend on the settings is still checked."""
    monkeypatch.setenv("GLM_HUB", "nowhere")
    status, found = examine(monkeypatch, capsys, healthy())
    assert status == 2
    assert list(found) == ["python", "torch", "transformers", "settings", "cache"]
    assert found["settings"][0] == "fault"
    assert found["settings"][1].startswith("GLM_HUB: hub 'nowhere' is unknown")


def test_settings_say_where_they_come_from(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """The file is named, and what it says of model and device."""
    (tmp_path / "mine.toml").write_text('device = "null"\nmodel = "small"\n')
    monkeypatch.setenv("GLM_CONFIG", str(tmp_path / "mine.toml"))
    _, found = examine(monkeypatch, capsys, healthy())
    assert found["settings"] == ("ok", f"from {tmp_path / 'mine.toml'}; model small, device null")


def test_model_whose_files_are_gone_is_a_fault(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """A damaged installation of a model package."""
    cards = (ModelCard("small", "", path=tmp_path / "gone"),)
    status, found = examine(monkeypatch, capsys, healthy(models=plugin(describe_models=lambda: cards)))
    assert status == 2
    assert found["model small"] == ("fault", f"{tmp_path / 'gone'} is missing; install its package again")


def test_little_room_for_downloads_is_a_note(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The demo still runs, so it is no fault."""
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=5 * 10**9))
    status, found = examine(monkeypatch, capsys, healthy())
    assert status == 0
    assert found["cache"][0] == "note"
    assert found["cache"][1].endswith("5 GB free; ChatGLM-6B in float16 takes 13.4 GB")


def test_cache_that_cannot_be_written_is_a_fault(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """The nearest folder that exists is the one to mend."""
    monkeypatch.setattr("os.access", lambda path, mode: False)
    status, found = examine(monkeypatch, capsys, healthy())
    assert status == 2
    assert found["cache"] == (
        "fault",
        f"{tmp_path} is not writable; models cannot be downloaded. Set HF_HOME.",
    )


@pytest.mark.parametrize("there", [True, False])
def test_package_without_metadata_is_noted(
    there: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Torch from a source tree, or no torch at all, is no fault of the installation."""

    def version(package: str) -> str:
        raise metadata.PackageNotFoundError(package)

    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object() if there else None)
    monkeypatch.setattr(metadata, "version", version)
    status, found = examine(monkeypatch, capsys, healthy())
    assert status == 0
    words = (
        "there, but not installed by a package manager"
        if there
        else "not installed; glm-runtime-torch needs it"
    )
    assert found["torch"] == found["transformers"] == ("note", words)


def test_every_description_is_asked_once(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Plugins are surveyed once a command, and what they said is carried along."""
    host, asked = healthy(models=plugin(describe_models=lambda: ())), Counter[tuple[str, str]]()
    call = host.call

    def count(name: str, hook: str, **arguments: object) -> object:
        asked[name, hook] += 1
        return call(name, hook, **arguments)

    monkeypatch.setattr(host, "call", count)
    assert examine(monkeypatch, capsys, host)[0] == 0
    hooks = ("describe_backend", "describe_frontend", "describe_models", "describe_runtime")
    assert {hook for _, hook in asked} == set(hooks)
    assert set(asked.values()) == {1}
