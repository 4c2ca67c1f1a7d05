"""Tests of what a plugin may do wrong without anything else being affected."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import re
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from fake_plugins import FakeModel, backend, host_loading, plugin, run_glm, run_python, runtime, write_package
from glm_testing import host_of, null_backend

from glm_core import ChatModel, Delta, PluginError, Usage
from glm_core._conflicts import name_conflicts
from glm_core._isolation import LONGEST_TEXT, said, shown
from glm_core._progress import checked_progress
from glm_core.frontends import describe_frontends, find_frontend
from glm_core.plugins import API_VERSION, Candidate, PluginHost
from glm_core.records import (
    BackendInfo,
    DeviceInfo,
    FrontendInfo,
    ModelCard,
    TrainerInfo,
    TrainProgress,
)
from glm_core.routing import choose_devices
from glm_core.survey import take_survey

CPU = DeviceInfo("cpu", "cpu", "a processor")


class EndOfTheWorldError(BaseException):
    """Not even an Exception."""


class Impatient(KeyboardInterrupt):
    """An interrupt that no user made."""


class Unspeakable(Exception):  # noqa: N818  # the name is its message
    """Cannot be shown."""

    def __str__(self) -> str:
        raise ValueError("no words")

    __repr__ = __str__


def raising(error: BaseException) -> Callable[..., Any]:
    """A function that raises ``error``."""

    def function() -> None:
        raise error

    return function


def after(action: Callable[[], object]) -> Callable[[], ModuleType]:
    """An import that does something and gives a working plugin."""

    def load() -> ModuleType:
        action()
        return null_backend

    return load


# --- raising -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "error", [EndOfTheWorldError("now"), asyncio.CancelledError(), Impatient(), Unspeakable()]
)
def test_whatever_an_import_raises_is_reported(error: BaseException) -> None:
    """Also what is no ``Exception``, and what cannot be shown."""
    (report,) = host_loading(raising(error)).reports
    assert report.status == "broken"
    assert report.reason.startswith(f"import failed: {type(error).__name__}")


@pytest.mark.parametrize("error", [EndOfTheWorldError("now"), asyncio.CancelledError(), GeneratorExit()])
def test_whatever_a_hook_raises_names_the_plugin(error: BaseException) -> None:
    """Only an interrupt on the caller's own thread is passed on, because it is the user's."""
    with pytest.raises(PluginError, match=f"^plugin 'a' failed in place: {type(error).__name__}") as caught:
        host_of(a=plugin(place=raising(error))).call("a", "place", model=1, placement=None)
    assert caught.value.__cause__ is error


@pytest.mark.parametrize("error", [KeyboardInterrupt(), Impatient(), EndOfTheWorldError(), Unspeakable()])
def test_interrupt_in_a_description_is_the_plugins(error: BaseException) -> None:
    """Descriptions run on a thread of the plugin's own, where no Ctrl-C arrives."""
    host = host_of(bad=plugin(describe_backend=raising(error)), good=backend(CPU))
    assert list(host.describe("describe_backend", BackendInfo)) == ["good"]
    assert f"failed in describe_backend: {type(error).__name__}" in host.reports[0].reason


class Nasty:
    """An object that raises whatever it is asked."""

    GLM_API_VERSION = API_VERSION

    def __getattribute__(self, name: str) -> Any:
        if name == "GLM_API_VERSION":
            return API_VERSION
        raise SystemExit(3)

    def __repr__(self) -> str:
        raise SystemExit(4)


def test_object_that_raises_when_looked_at_is_refused() -> None:
    """An entry point may name anything; looking for its hooks runs its code."""
    bad, good = host_of(bad=Nasty(), good=null_backend).reports
    assert (bad.status, good.status) == ("broken", "ok")


def test_answer_that_ends_the_process_when_looked_at_is_refused() -> None:
    """``isinstance`` asks the object itself."""
    host = host_of(bad=plugin(describe_backend=lambda: Nasty()))
    assert host.describe("describe_backend", BackendInfo) == {}
    assert host.reports[0].status == "broken"


def test_answer_that_cannot_be_shown_is_refused() -> None:
    """The message names its type instead."""
    host = host_of(bad=plugin(describe_backend=lambda: Unspeakable()))
    assert host.describe("describe_backend", BackendInfo) == {}
    assert "returned a Unspeakable; one BackendInfo is expected" in host.reports[0].reason


def test_texts_of_plugins_are_one_printable_line() -> None:
    """Neither colours nor line ends nor a novel reach the terminal."""
    assert said(ValueError("red \x1b[31m\nnext")) == "ValueError: red \\x1b[31m next"
    assert len(shown("x" * 10_000)) == LONGEST_TEXT + 3
    assert shown("你好") == "'你好'"


# --- wrong answers -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "describe",
    [
        lambda: BackendInfo(None, (CPU,)),  # type: ignore[arg-type]
        lambda: BackendInfo("two words", (CPU,)),
        lambda: BackendInfo("fast", (CPU,), priority="high"),  # type: ignore[arg-type]
        lambda: BackendInfo("fast", (DeviceInfo("cpu", "cpu", None),)),  # type: ignore[arg-type]
        lambda: BackendInfo("fast", (DeviceInfo("cpu", "cpu", "", memory_bytes="8 GB"),)),  # type: ignore[arg-type]
        lambda: BackendInfo("fast", (DeviceInfo(3, "cpu", ""),)),  # type: ignore[arg-type]
        lambda: BackendInfo("fast", (DeviceInfo("auto", "auto", ""),)),
    ],
)
def test_description_with_a_wrong_value_breaks_no_command(describe: Callable[[], Any]) -> None:
    """A priority that is text would else stop ``--device auto`` for everybody."""
    host = host_of(bad=plugin(describe_backend=describe), good=backend(CPU))
    assert list(host.describe("describe_backend", BackendInfo)) == ["good"]
    assert re.search("must be|cannot be called", host.reports[0].reason)


@pytest.mark.parametrize(
    ("hook", "describe"),
    [
        ("describe_frontend", lambda: FrontendInfo(7, "", "a:b")),  # type: ignore[arg-type]
        ("describe_frontend", lambda: FrontendInfo("--help", "", "a:b")),
        ("describe_frontend", lambda: FrontendInfo("f", "", None)),  # type: ignore[arg-type]
        ("describe_trainer", lambda: TrainerInfo("", "")),
        ("describe_models", lambda: (ModelCard(["m"], ""),)),  # type: ignore[arg-type]
    ],
)
def test_name_that_nobody_could_type_is_refused(hook: str, describe: Callable[[], Any]) -> None:
    """Names are words, since users type them."""
    host = host_of(bad=plugin(**{hook: describe}))
    name_conflicts(host)
    assert host.reports[0].status == "broken"
    assert "must be" in host.reports[0].reason


LAST = Delta("", (), "stop", Usage())


def stream(*deltas: object) -> Any:
    """The answer of a runtime that gives these, as a frontend gets it."""
    fake = FakeModel()
    module = runtime(fake, lambda request: (delta for delta in deltas))
    return ChatModel(host_of(mine=module), "mine", fake).chat_stream("hi")


@pytest.mark.parametrize(
    ("deltas", "message"),
    [
        (("text", LAST), "chat_stream gave 'text'; Delta records with text are expected"),
        ((Delta(None), LAST), "chat_stream gave Delta(text=None"),  # type: ignore[arg-type]
        ((LAST, Delta("more")), "chat_stream went on after the delta that had a finish_reason"),
        ((LAST, LAST), "chat_stream went on after the delta that had a finish_reason"),
        ((Delta("half"),), "chat_stream ended without a delta that has a finish_reason"),
        ((), "chat_stream ended without a delta that has a finish_reason"),
        (
            (Delta("", (), "tired"),),
            "chat_stream gave the finish_reason 'tired'; expected one of stop, length",
        ),  # type: ignore[arg-type]
    ],
)
def test_stream_that_breaks_its_order_names_the_plugin(deltas: tuple[object, ...], message: str) -> None:
    """Whatever frontend reads it; the answer is cancelled."""
    answer = stream(*deltas)
    with pytest.raises(PluginError) as caught:
        list(answer)
    assert str(caught.value).startswith(f"plugin 'mine': {message}")
    with pytest.raises(StopIteration):
        next(answer)


def test_stream_that_is_closed_early_may_end_without_a_reason() -> None:
    """Whoever cancels an answer expects no last delta."""
    answer = stream(Delta("a"), Delta("b"), LAST)
    assert next(answer).text == "a"
    answer.close()
    assert list(answer) == []


@pytest.mark.parametrize("error", [SystemExit(3), EndOfTheWorldError("now")])
def test_exit_in_the_middle_of_an_answer_names_the_plugin(error: BaseException) -> None:
    """A runtime cannot end a server."""

    def deltas() -> Iterator[Delta]:
        yield Delta("a")
        raise error

    fake = FakeModel()
    model = ChatModel(host_of(mine=runtime(fake, lambda request: deltas())), "mine", fake)
    with pytest.raises(PluginError, match=f"plugin 'mine' failed while answering: {type(error).__name__}"):
        list(model.chat_stream("hi"))


class Frail(FakeModel):
    """A model that fails wherever it is touched."""

    @property
    def info(self) -> Any:
        """Fails."""
        raise OSError("the driver is gone")

    @info.setter
    def info(self, value: object) -> None: ...

    @property
    def load(self) -> Any:
        """Fails."""
        raise OSError("the driver is gone")

    def close(self) -> None:
        """Fails."""
        raise OSError("the driver is gone")


@pytest.mark.parametrize("member", ["info", "load", "close"])
def test_model_that_fails_where_it_is_touched_names_the_plugin(member: str) -> None:
    """What a runtime's own object raises is a plugin's failure, like what its hooks raise."""
    model = ChatModel(host_of(mine=runtime(Frail())), "mine", Frail())
    with pytest.raises(PluginError, match=f"^plugin 'mine' failed in {member}: OSError: the driver is gone"):
        model.close() if member == "close" else getattr(model, member)


def test_info_of_another_kind_names_the_plugin() -> None:
    """Frontends rely on its fields."""
    fake = FakeModel()
    fake.info = "a model"  # type: ignore[assignment]
    with pytest.raises(PluginError, match="info of its model is 'a model', which is no ModelInfo"):
        _ = ChatModel(host_of(mine=runtime(fake)), "mine", fake).info


STEP, DONE = TrainProgress(1, 2), TrainProgress(2, 2, finished=True)


def reports(*given: object) -> list[TrainProgress]:
    """All of what a trainer reports, once it is checked."""
    return list(checked_progress("mine", "train", iter(given), TrainProgress))


def test_reports_of_a_job_come_as_they_are() -> None:
    """Nothing is added or held back."""
    assert reports(STEP, DONE) == [STEP, DONE]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ((STEP, "50 %"), "train gave '50 %'; TrainProgress records are expected"),
        ((DONE, STEP), "train went on after being finished"),
        ((STEP,), "train ended without being finished"),
        ((), "train ended without being finished"),
    ],
)
def test_reports_that_break_their_order_name_the_plugin(given: tuple[object, ...], message: str) -> None:
    """A job that ends early is not taken for a finished one."""
    with pytest.raises(PluginError, match=f"^plugin 'mine': {message}"):
        reports(*given)


def test_job_that_is_no_iterator_or_raises_names_the_plugin() -> None:
    """At once, or when it happens."""
    with pytest.raises(PluginError, match="train returned 'now', which is no iterator"):
        checked_progress("mine", "train", "now", TrainProgress)

    def failing() -> Iterator[TrainProgress]:
        yield STEP
        raise SystemExit(1)

    with pytest.raises(PluginError, match="^plugin 'mine' failed in train: SystemExit: 1"):
        list(checked_progress("mine", "train", failing(), TrainProgress))


def test_closing_a_job_closes_the_plugins() -> None:
    """The trainer gets the chance to save its state."""
    closed: list[bool] = []

    def job() -> Iterator[TrainProgress]:
        try:
            while True:
                yield STEP
        finally:
            closed.append(True)

    checked = checked_progress("mine", "train", job(), TrainProgress)
    next(checked)
    checked.close()
    assert closed == [True]


# --- names that two claim ------------------------------------------------------------------------


def front(name: str) -> ModuleType:
    """A plugin with one frontend."""
    return plugin(describe_frontend=lambda: FrontendInfo(name, "", f"{name}:run"))


def test_names_that_two_plugins_claim_are_remarked_on_both() -> None:
    """By one rule: the plugin whose name sorts first keeps frontends, trainers and models."""
    cards = plugin(describe_models=lambda: (ModelCard("null", "mine"),))
    host = host_of(zzz=front("web"), aaa=front("web"), null=null_backend, more=cards, other=front("cli"))
    assert name_conflicts(host) == {
        "aaa": ("describes frontend 'web', as zzz does; aaa comes first",),
        "zzz": ("describes frontend 'web', as aaa does, which comes first",),
        "more": ("describes model 'null', as null does; more comes first",),
        "null": ("describes model 'null', as more does, which comes first",),
    }


def test_start_of_a_frontend_that_two_plugins_have_says_which(caplog: pytest.LogCaptureFixture) -> None:
    """And how to get the other one."""
    host = host_of(zzz=front("web"), aaa=front("web"), other=front("cli"))
    find_frontend(host, "cli")
    assert caplog.messages == []
    assert find_frontend(host, "web").name == "web"
    assert caplog.messages == [
        "glm: frontend 'web' is described by plugin aaa and by zzz; aaa comes first. "
        "GLM_DISABLE_PLUGINS=aaa takes the other."
    ]


def test_devices_that_two_backends_claim_go_by_priority() -> None:
    """The remark says who is asked first, which is whom ``--device`` takes."""
    host = host_of(a=backend(CPU), b=backend(CPU, priority=5))
    assert name_conflicts(host) == {
        "a": ("describes devices of type 'cpu', as b does, which comes first",),
        "b": ("describes devices of type 'cpu', as a does; b comes first",),
    }


def ours_and(*others: Candidate) -> PluginHost:
    """This project's CPU backend and command-line frontend, by their packages' names, and others."""
    return PluginHost(
        [
            Candidate("backend_cpu", "glm-backend-cpu", "1", lambda: backend(CPU)),
            Candidate("frontend_cli", "glm-frontend-cli", "1", lambda: front("cli")),
            *others,
        ]
    )


def test_other_package_cannot_take_a_frontend_of_ours() -> None:
    """``glm run cli`` stays what it is, whatever else is installed and whatever it is called."""
    host = ours_and(Candidate("aaa", "glm-aaa", "1", lambda: front("cli")))
    assert describe_frontends(host)["cli"].run == "cli:run"
    assert name_conflicts(host) == {
        "frontend_cli": ("describes frontend 'cli', as aaa does; frontend_cli comes first",),
        "aaa": ("describes frontend 'cli', as frontend_cli does, which comes first",),
    }


def test_other_package_cannot_answer_for_a_device_of_ours() -> None:
    """Not even with a higher priority; its other devices stay, and without our package it has them all."""
    npu = DeviceInfo("npu", "npu", "")
    thief = Candidate("aaa", "glm-aaa", "1", lambda: backend(CPU, npu, priority=50))
    host = ours_and(thief)
    plugin_name, devices = choose_devices(take_survey(host), "cpu")
    assert (plugin_name, devices) == ("backend_cpu", (CPU,))
    assert choose_devices(take_survey(host), "auto")[1] == (npu,)
    assert name_conflicts(host) == {
        "backend_cpu": ("describes devices of type 'cpu', as aaa does; backend_cpu comes first",),
        "aaa": ("describes devices of type 'cpu', as backend_cpu does, whose they are; they are left out",),
    }
    assert choose_devices(take_survey(PluginHost([thief])), "cpu")[0] == "aaa"


def test_alias_never_hides_another_models_name(tmp_path: Path) -> None:
    """A plugin cannot take ``demo`` by naming its own model so besides."""
    from glm_core.models import resolve

    thief = plugin(describe_models=lambda: (ModelCard("aaa", "", path=tmp_path / "x", aliases=("null",)),))
    assert resolve(host_of(a=thief, null=null_backend), "null").path is None


def test_name_behind_a_model_without_files_is_handed_on() -> None:
    """``NAME:ANYTHING`` reaches the runtime, for models that are behind an address."""
    from glm_core.models import resolve

    resolved = resolve(host_of(null=null_backend), "null:http://host/v1")
    assert (resolved.name, resolved.path) == ("null:http://host/v1", None)


# --- side effects --------------------------------------------------------------------------------


def remarks(action: Callable[[], object]) -> tuple[str, ...]:
    """What is said of a plugin that does this while it is imported."""
    (report,) = host_loading(after(action)).reports
    assert report.status == "ok"
    return report.remarks


def test_plugin_without_side_effects_has_no_remark() -> None:
    """The usual case."""
    assert remarks(lambda: None) == ()


def test_printing_at_import_is_kept_off_standard_output(capsys: pytest.CaptureFixture[str]) -> None:
    """What a command prints is the command's, whatever is installed; others may print meanwhile."""

    def act() -> None:
        print("Welcome to\nmy plugin!")
        other = threading.Thread(target=print, args=("of another thread",))
        other.start()
        other.join()

    assert remarks(act) == (
        "prints to standard output, which belongs to the commands: 'Welcome to my plugin!' (left out)",
    )
    assert capsys.readouterr().out == "of another thread\n"


def test_printing_while_describing_is_kept_off_standard_output(capsys: pytest.CaptureFixture[str]) -> None:
    """And remarked on once, however often it is asked."""

    def describe() -> BackendInfo:
        print("looking for devices")
        return BackendInfo("b", (CPU,))

    host = host_of(b=plugin(describe_backend=describe))
    for _ in range(3):
        assert list(host.describe("describe_backend", BackendInfo)) == ["b"]
    assert len(host.reports[0].remarks) == 1
    assert capsys.readouterr().out == ""


def test_program_that_a_plugin_starts_does_not_print_among_results(tmp_path: Path) -> None:
    """``glm plugins --json`` stays JSON; the text is on standard error."""
    source = "import os\nos.system('echo from a program')\nfrom glm_testing.null_backend import *\n"
    write_package(tmp_path, "loud", source)
    done = run_glm("plugins", "--json", folder=tmp_path, environ={"GLM_PLUGINS": "loud"})
    assert "loud" in [report["name"] for report in json.loads(done.stdout)]
    assert done.stderr == "from a program\n"


def test_what_an_import_changes_is_put_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Working directory, streams, root logger; environment variables stay and are named."""
    monkeypatch.delenv("GLM_TEST_OF_ISOLATION", raising=False)
    before = (os.getcwd(), sys.stdout, sys.stderr, logging.root.level, list(logging.root.handlers))

    def act() -> None:
        os.chdir(tmp_path)
        sys.stderr = sys.stdout
        logging.root.setLevel(1)
        logging.root.addHandler(logging.NullHandler())
        os.environ["GLM_TEST_OF_ISOLATION"] = "1"

    assert remarks(act) == (
        "replaces a standard stream of the process (undone)",
        "changes the working directory (undone)",
        "changes the root logger (undone)",
        "changes the environment variables GLM_TEST_OF_ISOLATION",
    )
    assert (os.getcwd(), sys.stdout, sys.stderr, logging.root.level, logging.root.handlers) == before


def test_locale_is_put_back() -> None:
    """In a process of its own, since a locale is the whole process's."""
    program = (
        "import locale\n"
        "from fake_plugins import host_loading\n"
        "from glm_testing import null_backend\n"
        "before = locale.setlocale(locale.LC_ALL)\n"
        "def load():\n"
        "    locale.setlocale(locale.LC_ALL, 'POSIX')\n"
        "    return null_backend\n"
        "print(host_loading(load).reports[0].remarks, locale.setlocale(locale.LC_ALL) == before)\n"
    )
    support = str(Path(__file__).parents[1] / "support")
    done = run_python("-c", program, environ={"PYTHONPATH": support, "LC_ALL": "C.UTF-8"})
    assert done.stdout == "('changes the locale (undone)',) True\n", done.stderr


def test_thread_that_would_keep_commands_from_ending_is_remarked_on() -> None:
    """A daemon thread is nobody's business; another one is."""
    over = threading.Event()
    try:
        assert remarks(lambda: threading.Thread(target=over.wait, daemon=True).start()) == ()
        assert remarks(lambda: threading.Thread(target=over.wait, daemon=False).start()) == (
            "starts a thread that is no daemon and may keep commands from ending",
        )
    finally:
        over.set()


def test_signal_handler_at_import_is_refused() -> None:
    """Python allows them on the main thread only, which no plugin is imported on."""
    import signal

    (report,) = host_loading(after(lambda: signal.signal(signal.SIGINT, signal.SIG_IGN))).reports
    assert "signal only works in main thread" in report.reason


@pytest.mark.parametrize("place", ["import", "description"])
def test_heavy_import_is_remarked_on(place: str, tmp_path: Path) -> None:
    """``glm plugins`` names the plugin that makes every command slow."""
    source = "from glm_testing.null_backend import *\n"
    if place == "import":
        source += "import numpy\n"
    else:
        source += (
            "from glm_core import hookimpl\n"
            "@hookimpl\n"
            "def describe_models():\n"
            "    import numpy\n"
            "    return ()\n"
        )
    write_package(tmp_path, "slow", source)
    done = run_glm("plugins", "--json", folder=tmp_path, environ={"GLM_PLUGINS": "slow"})
    (report,) = [report for report in json.loads(done.stdout) if report["name"] == "slow"]
    assert report["remarks"] == ["imports numpy before use, which slows every command"]


def test_hosts_can_be_built_on_many_threads_at_once() -> None:
    """Standard output is put back in any order of their ending."""
    before = sys.stdout
    hosts: list[PluginHost] = []
    threads = [threading.Thread(target=lambda: hosts.append(host_of(null=null_backend))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sys.stdout is before
    assert [host.reports[0].remarks for host in hosts] == [()] * 8
