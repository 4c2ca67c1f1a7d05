"""Every check of the conformance kit can fail, names the promise, and fails for that promise alone."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import broken_frontends  # noqa: F401 - fills the table
import broken_plugins
import broken_trainers  # noqa: F401 - fills the table
import pytest
from broken_frontends import line_server
from broken_plugins import BROKEN, Maker
from glm_testing.conformance import (
    BrokenPromiseError,
    Check,
    NotApplicableError,
    Subject,
    checks_for,
    list_checks,
)
from glm_testing.conformance.subject import convert_options
from patience import PATIENCE_SECONDS

from glm_core import ConfigError, hookimpl
from glm_core.records import DeviceInfo, ModelSource, Option

CHECKS = list_checks()

_STARTED = {"converses", "survives", "cancels", "escapes", "stops", "options", "busy-port"}
SAME_CAUSE: dict[str, set[str]] = {
    "never_the_same": {
        "placing-again",
        "stop-strings",
        "closing",
        "cancelling-under-load",
        "answers-at-once",
    },
    "leaks_slots": {"closing-from-elsewhere", "cancelling-under-load"},
    "absent_function": {f"frontend-{name}" for name in _STARTED},
}
"""By the maker of a broken plugin: other checks that see the same fault from another side."""

NEVER_COMES = {
    "endless_import",
    "kept_models",
    "leaves_readers_waiting",
    "leaves_threads",
    "never_cancels",
    "stops_never",
}
"""Makers of plugins whose fault is that something never happens, which the check waits for in vain."""

TIME_IS_UP = re.compile(r"within [\d.]+ seconds|[\d.]+ seconds (after|later)|never comes?|never came")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty directory from which modules can be imported."""
    monkeypatch.syspath_prepend(tmp_path)
    modules = set(sys.modules)
    yield tmp_path
    broken_plugins.RELEASE.set()
    for name in set(sys.modules) - modules:
        if name.startswith("plugin_in_"):
            del sys.modules[name]


def find_breach(check: Check, subject: Subject) -> str:
    """Return what is broken, if anything."""
    try:
        check.run(subject)
    except NotApplicableError:
        return ""
    except BrokenPromiseError as error:
        return str(error)
    return ""


def find_breaches(subject: Subject, wanted: Callable[[Check], bool] = lambda check: True) -> dict[str, str]:
    """Run every check that is wanted, and return what is broken by its name."""
    broken_plugins.RELEASE.clear()
    try:
        found = {check.name: find_breach(check, subject) for check in checks_for(subject) if wanted(check)}
    finally:
        subject.close()
    return {name: said for name, said in found.items() if said}


def test_every_check_has_a_broken_plugin() -> None:
    """A check that nothing can fail is none, and no broken plugin is left without its check."""
    assert len(CHECKS) > 40
    assert sorted(BROKEN) == sorted(check.name for check in CHECKS)


FAULTS = [(check, make) for check in CHECKS for make in BROKEN.get(check.name, [])]


@pytest.mark.parametrize(
    ("check", "make"), FAULTS, ids=[f"{check.name}-{make.__name__}" for check, make in FAULTS]
)
def test_a_broken_plugin_is_caught_by_the_check_of_its_promise(
    check: Check, make: Maker, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The check fails, says which promise is broken and where it is documented, and others pass."""
    never_comes = make.__name__ in NEVER_COMES
    if not never_comes:  # the check finds it as soon as it looks; a busy machine must not find more
        monkeypatch.setattr(broken_plugins, "PATIENCE", PATIENCE_SECONDS / 10)
    said = find_breaches(make(folder), lambda other: other == check)[check.name]
    where = f'promise "{check.promise}" (docs/plugins/promises.md#{check.name}) is broken: '
    assert said.startswith(where)
    assert len(said) > len(where) + 10
    # Time that is up proves a fault only where the fault is that nothing comes.
    assert bool(TIME_IS_UP.search(said)) == never_comes, said

    if check.name != "loads":  # what cannot be loaded is not looked at further, and need not be waited for
        monkeypatch.setattr(broken_plugins, "PATIENCE", PATIENCE_SECONDS / 10)
    allowed = {check.name, *SAME_CAUSE.get(make.__name__, set())}
    assert find_breaches(make(folder), lambda other: other.name not in allowed) == {}


def test_faults_that_are_waited_for_have_makers() -> None:
    """No name in the list is left over."""
    assert {make.__name__ for _, make in FAULTS} >= NEVER_COMES


def test_the_frontend_that_the_broken_ones_vary_keeps_every_promise(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a flaw no check finds one."""
    monkeypatch.setattr(broken_plugins, "PATIENCE", PATIENCE_SECONDS / 10)
    assert find_breaches(line_server("run")) == {}


def test_a_backend_without_its_device_is_checked_as_far_as_that_goes() -> None:
    """What needs the device is skipped, with the reason that the backend gives."""
    absent = broken_plugins.described(
        DeviceInfo("null", "null", "none", available=False, reason="no driver is installed")
    )
    subject = broken_plugins.subject_of(absent)
    skipped = {}
    for check in checks_for(subject):
        try:
            check.run(subject)
        except NotApplicableError as reason:
            skipped[check.name] = str(reason)
    for name in ("closing", "dtypes", "memory-returned", "unknown-adapters", "placed-where"):
        assert "no driver is installed" in skipped[name]
    assert not {"loads", "devices", "declines-models"} & set(skipped)


def test_a_check_that_hangs_is_given_up() -> None:
    """After ten times its patience the kit says so, and goes on."""

    @hookimpl
    def identify_model(source: ModelSource) -> None:
        broken_plugins.RELEASE.wait()

    broken_plugins.RELEASE.clear()
    subject = broken_plugins.subject_of(
        broken_plugins.null_with(identify_model=identify_model), patience=0.05
    )
    check = next(check for check in CHECKS if check.name == "declines-sources")
    try:
        with pytest.raises(BrokenPromiseError, match="nothing came back within 0.5 seconds"):
            check.run(subject)
    finally:
        broken_plugins.RELEASE.set()


@pytest.mark.parametrize(
    ("plugin", "model"),
    [
        ("runtime_torch", "demo"),
        ("backend_cpu", "demo"),
        ("glm_testing.null_backend", "null"),
        ("glm_testing.null_trainer", "null"),
    ],
)
def test_a_model_is_found_for_a_plugin(plugin: str, model: str) -> None:
    """One of its own, else the demo model, else the null model: the first that it takes."""
    subject = Subject(plugin)
    assert subject.model_name == model
    subject.close()


def test_a_frontend_without_a_driver_is_checked_as_far_as_that_goes() -> None:
    """The reason names the option that is missing."""
    subject = Subject("frontend_api")
    check = next(check for check in CHECKS if check.name == "frontend-converses")
    with pytest.raises(NotApplicableError, match="--glm-driver MODULE:CLASS"):
        check.run(subject)


def test_option_values_are_what_core_would_pass() -> None:
    """Text becomes the described type; a wrong one is refused."""
    options = (Option("steps", "", int, 3), Option("fast", "", bool, False), Option("name", ""))
    given = {"steps": "5", "fast": "true", "more": "text"}
    assert convert_options(options, given) == {"steps": 5, "fast": True, "name": None, "more": "text"}
    for wrong in ({"steps": "five"}, {"fast": "maybe"}):
        with pytest.raises(ConfigError, match="is no (int|bool)"):
            convert_options(options, wrong)
