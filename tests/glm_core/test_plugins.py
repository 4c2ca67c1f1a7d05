"""Tests of loading plugins one by one and of calling one hook of one plugin."""

from __future__ import annotations

import importlib
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from fake_plugins import backend, host_loading, plugin
from glm_testing import make_host, null_backend

from glm_core import DeviceError, PluginError
from glm_core.plugins import Candidate, PluginHost
from glm_core.records import BackendInfo, DeviceInfo, ModelCard

CPU = DeviceInfo("cpu", "cpu", "a processor")
CARD = ModelCard("m", "a model")


def raising(error: BaseException) -> Callable[..., Any]:
    """A function that raises ``error``."""

    def function() -> None:
        raise error

    return function


# --- loading -------------------------------------------------------------------------------------


def test_plugin_that_loads_is_reported_with_its_hooks() -> None:
    """The report says where a plugin comes from and which hooks it answers."""
    (report,) = make_host(null=null_backend).reports
    assert (report.name, report.distribution, report.version) == ("null", "glm-null", "0")
    assert (report.status, report.reason) == ("ok", "")
    assert report.hooks == (
        *("chat_stream", "describe_backend", "describe_models", "describe_runtime"),
        *("identify_model", "load_model", "place"),
    )


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (ModuleNotFoundError("No module named 'gradio'"), "ModuleNotFoundError: No module named 'gradio'"),
        (SyntaxError("two\n  lines"), "SyntaxError: two lines"),
        (SystemExit(3), "SystemExit: 3"),
        (GeneratorExit(), "GeneratorExit"),
        (TimeoutError("of its own"), "TimeoutError: of its own"),
        (ValueError(""), "ValueError"),
    ],
)
def test_plugin_that_cannot_be_imported_is_reported(error: BaseException, reason: str) -> None:
    """Whatever an import raises, the others are loaded and the report has the reason in one line."""
    candidates = [
        Candidate("bad", "glm-bad", "1.2", raising(error)),
        Candidate("good", "glm-good", "1", lambda: null_backend),
    ]
    bad, good = PluginHost(candidates).reports
    assert (bad.status, bad.reason, bad.version) == ("broken", f"import failed: {reason}", "1.2")
    assert good.status == "ok"


def test_real_import_errors_are_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A module with a syntax error, as Python itself reports it."""
    (tmp_path / "crooked_plugin.py").write_text("def (:\n")
    monkeypatch.syspath_prepend(tmp_path)
    (report,) = host_loading(lambda: importlib.import_module("crooked_plugin")).reports
    assert report.status == "broken"
    assert report.reason.startswith("import failed: SyntaxError: ")
    assert "crooked_plugin.py, line 1" in report.reason


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time that the host sees, which goes on only when the test adds to it."""
    now = [100.0]
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])
    return now


def test_slow_import_is_used_and_measured(clock: list[float]) -> None:
    """However long it takes: a slow disk is no fault."""

    def load() -> object:
        clock[0] += 120
        return null_backend

    (report,) = host_loading(load).reports
    assert report.status == "ok"
    assert report.seconds == {"import": 120}


def test_descriptions_are_measured(clock: list[float]) -> None:
    """The slowest of several calls counts, whatever the answers are."""
    slow_then_fast = iter([30, 2])

    def describe() -> BackendInfo:
        clock[0] += next(slow_then_fast)
        return BackendInfo("b", (CPU,))

    host = make_host(a=plugin(describe_backend=describe, place=lambda model: model))
    for _ in range(2):
        assert list(host.describe("describe_backend", BackendInfo)) == ["a"]
    assert host.reports[0].seconds == {"import": 0, "describe_backend": 30}


def test_plugins_are_imported_on_the_calling_thread() -> None:
    """So that signal handlers, and whatever else asks for the main thread, work as in any import."""
    threads: list[threading.Thread] = []

    def load() -> object:
        threads.append(threading.current_thread())
        return null_backend

    host_loading(load)
    assert threads == [threading.current_thread()]


def test_interrupt_while_a_plugin_loads_ends_the_command(caplog: pytest.LogCaptureFixture) -> None:
    """Ctrl-C is the user's, who then reads which plugin was waited for."""
    with pytest.raises(KeyboardInterrupt):
        host_loading(raising(KeyboardInterrupt()), name="slow")
    (line,) = caplog.messages
    assert "slow" in line
    assert "GLM_DISABLE_PLUGINS=slow" in line


@pytest.mark.parametrize(
    ("version", "reason"),
    [
        (
            1,
            "was written for API version 1; this glm-core speaks version 2. Install a newer version of it; "
            "what its author changes is in docs/plugins/compatibility.md",
        ),
        (3, "was written for API version 3; this glm-core speaks version 2. Install a matching version"),
        ("2", "was written for API version '2'; this glm-core speaks version 2."),
        (None, "states no GLM_API_VERSION; this glm-core speaks version 2"),
    ],
)
def test_other_api_version_is_refused(version: object, reason: str) -> None:
    """A plugin for other hooks is refused in one sentence instead of failing somewhere later."""
    host = make_host(old=plugin(api_version=version, describe_models=lambda: ()))
    (report,) = host.reports
    assert report.status == "incompatible"
    assert report.reason.startswith(reason)
    assert host.list_answering("describe_models") == ()


def test_plugin_without_a_version_is_refused() -> None:
    """The version must be stated, not only be right."""
    (report,) = make_host(nothing=object()).reports
    assert (report.status, report.reason) == (
        "incompatible",
        "states no GLM_API_VERSION; this glm-core speaks version 2",
    )


def _with_default(model: object, scheme: object = None) -> None: ...


def _keyword_only(model: object, *, scheme: object) -> None: ...


def _collecting(*arguments: object) -> None: ...


def _yielding(model: object, request: object) -> Iterator[str]:
    yield ""


@pytest.mark.parametrize(
    ("hooks", "reason"),
    [
        (
            {"chat_straem": lambda model: None},
            "implements 'chat_straem', which is no hook; did you mean 'chat_stream'?",
        ),
        (
            {"xyzzy": lambda: None},
            "implements 'xyzzy', which is no hook; hooks are: chat_stream, describe_backend, ",
        ),
        (
            {"place": lambda modle: None},
            "Argument(s) {'modle'} are declared in the hookimpl but can not be found",
        ),
        (
            {"quantize": _with_default},
            "quantize takes \"scheme: 'object' = None\"; hook parameters are plain: no defaults",
        ),
        ({"quantize": _keyword_only}, "quantize takes \"scheme: 'object'\"; hook parameters are plain: "),
        ({"place": _collecting}, "place takes \"*arguments: 'object'\"; hook parameters are plain: "),
        (
            {"chat_stream": _yielding},
            "chat_stream contains yield and so could never decline; return an iterator",
        ),
        ({}, "answers no hook; mark its hook functions with @glm_core.hookimpl"),
    ],
)
def test_wrong_hook_is_found_when_the_plugin_is_loaded(hooks: dict[str, Any], reason: str) -> None:
    """What pluggy would pass over in silence or refuse at the first call is reported at once."""
    host = make_host(bad=plugin(**hooks), good=null_backend)
    bad, good = host.reports
    assert bad.status == "broken"
    assert reason in bad.reason
    assert "\n" not in bad.reason
    assert good.status == "ok"
    assert host.list_answering("place") == ("good",)


def test_hook_may_take_fewer_arguments() -> None:
    """An implementation names only what it needs."""
    seen: list[object] = []
    host = make_host(a=plugin(place=lambda model: seen.append(model)))
    host.call("a", "place", model="here", placement=None)
    assert seen == ["here"]


def test_hook_of_a_later_core_may_be_optional() -> None:
    """A plugin may bring a hook that this core does not know yet, if it says so."""
    from glm_core import hookimpl

    module = plugin(describe_models=lambda: ())
    vars(module)["embed"] = hookimpl(optionalhook=True)(lambda model: None)
    (report,) = make_host(new=module).reports
    assert (report.status, report.hooks) == ("ok", ("describe_models",))


def test_second_plugin_of_a_name_is_refused() -> None:
    """The first of two packages that claim a name keeps it; the other is reported."""
    candidates = [
        Candidate("null", "glm-one", "1", lambda: null_backend),
        Candidate("null", "glm-two", "1", lambda: plugin(describe_models=lambda: ())),
    ]
    host = PluginHost(candidates)
    assert [report.status for report in host.reports] == ["ok", "broken"]
    assert host.reports[1].reason == "another plugin is already called 'null'"
    assert host.list_answering("place") == ("null",)


def test_broken_plugin_does_not_keep_its_name() -> None:
    """A second package may take the name of one that could not be loaded."""
    candidates = [
        Candidate("null", "glm-one", "1", raising(ImportError())),
        Candidate("null", "glm-two", "1", lambda: null_backend),
    ]
    assert [report.status for report in PluginHost(candidates).reports] == ["broken", "ok"]


def test_module_under_two_names_is_used_once() -> None:
    """Two entry points that name one module would answer every hook twice."""
    host = make_host(a=null_backend, b=null_backend)
    assert [report.status for report in host.reports] == ["ok", "broken"]
    assert host.reports[1].reason == "is the same module as plugin 'a'"


@pytest.mark.parametrize(
    ("choice", "reason"),
    [
        ({"allow": ["other"]}, "not listed in GLM_PLUGINS"),
        ({"deny": ["bad"]}, "listed in GLM_DISABLE_PLUGINS"),
    ],
)
def test_plugin_that_is_not_wanted_is_not_even_imported(choice: dict[str, list[str]], reason: str) -> None:
    """Allow and deny lists count before a plugin could do anything."""
    loaded: list[str] = []
    candidates = [
        Candidate("bad", "glm-bad", "1", lambda: loaded.append("bad")),
        Candidate("other", "glm-other", "1", lambda: loaded.append("other")),
    ]
    host = PluginHost(candidates, **choice)
    assert loaded == ["other"]
    assert (host.reports[0].status, host.reports[0].reason) == ("disabled", reason)


def test_deny_beats_allow() -> None:
    """A plugin on both lists is not loaded."""
    host = PluginHost([Candidate("a", "a", "1", lambda: null_backend)], allow=["a"], deny=["a"])
    assert host.reports[0].status == "disabled"


# --- calling -------------------------------------------------------------------------------------


@pytest.mark.parametrize("names", [("a", "b"), ("b", "a")])
def test_hook_is_called_on_one_plugin_only(names: tuple[str, str]) -> None:
    """Whatever the order of loading, only the plugin that is named is asked."""
    asked: list[str] = []

    def placing(name: str) -> Callable[..., str]:
        def place(model: object) -> str:
            asked.append(name)
            return name

        return place

    host = make_host(**{name: plugin(place=placing(name)) for name in names})
    assert host.call("a", "place", model=1, placement=None) == "a"
    assert asked == ["a"]


def test_plugin_that_declines_gives_none() -> None:
    """Nobody else is asked in its place."""
    host = make_host(a=plugin(place=lambda model: None), b=plugin(place=lambda model: "b"))
    assert host.call("a", "place", model=1, placement=None) is None


def test_list_as_an_answer_stays_a_list() -> None:
    """Only ``describe_*`` hooks collect; a list from another hook is what the plugin returned."""
    host = make_host(a=plugin(place=lambda model: [1, 2]))
    assert host.call("a", "place", model=1, placement=None) == [1, 2]


def test_glm_error_of_a_plugin_is_passed_on() -> None:
    """What the plugin says to the user reaches the user as it is."""
    error = DeviceError("too small")
    with pytest.raises(DeviceError) as caught:
        make_host(a=plugin(place=raising(error))).call("a", "place", model=1, placement=None)
    assert caught.value is error


@pytest.mark.parametrize("error", [ZeroDivisionError("by zero"), SystemExit("by zero")])
def test_other_error_of_a_plugin_becomes_a_plugin_error(error: BaseException) -> None:
    """A plugin's own bug names the plugin, the hook and a way on, and keeps its cause."""
    with pytest.raises(PluginError) as caught:
        make_host(a=plugin(place=raising(error))).call("a", "place", model=1, placement=None)
    assert caught.value.__cause__ is error
    assert str(caught.value) == (
        f"plugin 'a' failed in place: {type(error).__name__}: by zero. "
        "Report this to its author, or run with GLM_DISABLE_PLUGINS=a."
    )


def test_interrupt_in_a_hook_stays_an_interrupt() -> None:
    """Ctrl-C while a model loads ends the command."""
    with pytest.raises(KeyboardInterrupt):
        make_host(a=plugin(place=raising(KeyboardInterrupt()))).call("a", "place", model=1, placement=None)


# --- describing ----------------------------------------------------------------------------------


def test_descriptions_come_by_plugin_name_sorted() -> None:
    """Order of loading does not show in what core knows."""
    host = make_host(b=backend(), a=backend(CPU))
    assert list(host.describe("describe_backend", BackendInfo)) == ["a", "b"]


@pytest.mark.parametrize(
    ("describe", "reason"),
    [
        (
            raising(OSError("no driver")),
            "describe_backend failed: OSError: no driver",
        ),
        (raising(SystemExit(1)), "describe_backend failed: SystemExit: 1"),
        (raising(DeviceError("no driver")), "describe_backend: no driver"),
        (lambda: None, "describe_backend: returned None; one BackendInfo is expected"),
        (lambda: "cpu", "describe_backend: returned 'cpu'; one BackendInfo is expected"),
        (lambda: (), "describe_backend: returned (); one BackendInfo is expected"),
        (
            lambda: BackendInfo("b", "cpu"),  # type: ignore[arg-type]
            "describe_backend: devices of backend 'b' must be a tuple of DeviceInfo",
        ),
    ],
)
def test_plugin_that_cannot_describe_itself_is_left_out(describe: Callable[[], Any], reason: str) -> None:
    """It counts as broken from then on, with all its hooks, and the others still answer."""
    host = make_host(bad=plugin(describe_backend=describe, place=lambda model: model), good=backend(CPU))
    assert list(host.describe("describe_backend", BackendInfo)) == ["good"]
    bad, good = host.reports
    assert (bad.status, bad.hooks) == ("broken", ())
    assert bad.reason.startswith(reason)
    assert good.status == "ok"
    assert host.list_answering("place") == ("good",)
    assert list(host.describe("describe_backend", BackendInfo)) == ["good"]


@pytest.mark.parametrize("answer", [(CARD, CARD), [CARD, CARD]])
def test_models_are_described_by_a_tuple(answer: Any) -> None:
    """A list will do; core makes a tuple of it."""
    host = make_host(a=plugin(describe_models=lambda: answer))
    assert host.describe_many("describe_models", ModelCard) == {"a": (CARD, CARD)}


@pytest.mark.parametrize("answer", [CARD, (CARD, None), (CARD, "m"), None, "m"])
def test_models_described_otherwise_are_left_out(answer: Any) -> None:
    """One wrong member makes the whole answer wrong, ``None`` as well as any other."""
    host = make_host(a=plugin(describe_models=lambda: answer))
    assert host.describe_many("describe_models", ModelCard) == {}
    assert host.reports[0].reason == f"describe_models: returned {answer!r}; a tuple of ModelCard is expected"


def test_remark_on_unused_plugins_names_them() -> None:
    """Messages about something missing end with what is installed and not used."""
    assert make_host(null=null_backend).describe_unused() == ""
    host = host_loading(raising(ImportError("x")), name="cuda")
    assert host.describe_unused() == " (Installed, but not used: cuda; glm plugins says why.)"
