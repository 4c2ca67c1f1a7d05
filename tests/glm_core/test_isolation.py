"""Tests of what a plugin may do wrong without anything else being affected."""

from __future__ import annotations

import asyncio
import json
import re
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from fake_plugins import (
    FakeModel,
    backend,
    choose_devices,
    host_loading,
    plugin,
    run_glm,
    runtime,
    write_package,
)
from glm_jobs._progress import check_progress
from glm_testing import make_host, null_backend
from key_words import containing

from glm_core import ChatModel, Delta, PluginError, Usage
from glm_core.conflicts import find_name_conflicts
from glm_core.frontends import describe_frontends, find_frontend
from glm_core.isolation import LONGEST_TEXT, divert_output, format_error, format_value, mark_running_command
from glm_core.plugins import API_VERSION, Candidate, PluginHost
from glm_core.records import (
    BackendInfo,
    DeviceInfo,
    FrontendInfo,
    ModelCard,
    TrainerInfo,
    TrainProgress,
)
from glm_core.survey import take_survey

CPU = DeviceInfo("cpu", "cpu", "a processor")


class EndOfTheWorldError(BaseException):
    """Not even an Exception."""


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


# --- raising -------------------------------------------------------------------------------------


@pytest.mark.parametrize("error", [EndOfTheWorldError("now"), asyncio.CancelledError(), Unspeakable()])
def test_whatever_an_import_raises_is_reported(error: BaseException) -> None:
    """Also what is no ``Exception``, and what cannot be shown."""
    (report,) = host_loading(raising(error)).reports
    assert report.status == "broken"
    assert report.reason.startswith(f"import failed: {type(error).__name__}")


@pytest.mark.parametrize("error", [EndOfTheWorldError("now"), asyncio.CancelledError(), GeneratorExit()])
def test_whatever_a_hook_raises_names_the_plugin(error: BaseException) -> None:
    """Only an interrupt is passed on, because it is the user's."""
    with pytest.raises(PluginError, match=f"^plugin 'a' failed in place: {type(error).__name__}") as caught:
        make_host(a=plugin(place=raising(error))).call("a", "place", model=1, placement=None)
    assert caught.value.__cause__ is error


@pytest.mark.parametrize("error", [SystemExit(3), EndOfTheWorldError(), Unspeakable()])
def test_whatever_a_description_raises_costs_that_plugin_only(error: BaseException) -> None:
    """It is left out with its reason, and the others describe themselves."""
    host = make_host(bad=plugin(describe_backend=raising(error)), good=backend(CPU))
    assert list(host.describe("describe_backend", BackendInfo)) == ["good"]
    assert f"describe_backend failed: {type(error).__name__}" in host.reports[0].reason


def test_interrupt_in_a_description_is_the_users() -> None:
    """The plugin is not to blame, and the command ends."""
    host = make_host(slow=plugin(describe_backend=raising(KeyboardInterrupt())))
    with pytest.raises(KeyboardInterrupt):
        host.describe("describe_backend", BackendInfo)
    assert host.reports[0].status == "ok"


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
    bad, good = make_host(bad=Nasty(), good=null_backend).reports
    assert (bad.status, good.status) == ("broken", "ok")


def test_answer_that_ends_the_process_when_looked_at_is_refused() -> None:
    """``isinstance`` asks the object itself."""
    host = make_host(bad=plugin(describe_backend=lambda: Nasty()))
    assert host.describe("describe_backend", BackendInfo) == {}
    assert host.reports[0].status == "broken"


def test_answer_that_cannot_be_shown_is_refused() -> None:
    """The message names its type instead."""
    host = make_host(bad=plugin(describe_backend=lambda: Unspeakable()))
    assert host.describe("describe_backend", BackendInfo) == {}
    assert "returned a Unspeakable; one BackendInfo is expected" in host.reports[0].reason


def test_texts_of_plugins_are_one_printable_line() -> None:
    """Neither colours nor line ends nor a novel reach the terminal."""
    assert format_error(ValueError("red \x1b[31m\nnext")) == "ValueError: red \\x1b[31m next"
    assert len(format_value("x" * 10_000)) == LONGEST_TEXT + 3
    assert format_value("你好") == "'你好'"


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
    host = make_host(bad=plugin(describe_backend=describe), good=backend(CPU))
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
    host = make_host(bad=plugin(**{hook: describe}))
    find_name_conflicts(host)
    assert host.reports[0].status == "broken"
    assert "must be" in host.reports[0].reason


LAST = Delta("", (), "stop", Usage())


def stream(*deltas: object) -> Any:
    """The answer of a runtime that gives these, as a frontend gets it."""
    fake = FakeModel()
    module = runtime(fake, lambda request: (delta for delta in deltas))
    return ChatModel(make_host(mine=module), "mine", fake).chat_stream("hi")


@pytest.mark.parametrize(
    ("deltas", "message"),
    [
        (("text", LAST), "chat_stream gave 'text'; Delta records with text are expected"),
        ((Delta(None), LAST), "chat_stream gave Delta(text=None"),  # type: ignore[arg-type]
        ((LAST, Delta("more")), "chat_stream went on after the delta that had a finish_reason"),
        ((LAST, LAST), "chat_stream went on after the delta that had a finish_reason"),
        ((Delta("half"),), "chat_stream ended without a finish_reason"),
        ((), "chat_stream ended without a finish_reason"),
        (
            (Delta("", (), "tired"),),  # type: ignore[arg-type]
            "chat_stream gave the finish_reason 'tired'; expected one of stop, length",
        ),
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
    model = ChatModel(make_host(mine=runtime(fake, lambda request: deltas())), "mine", fake)
    with pytest.raises(PluginError, match=f"plugin 'mine' failed in chat_stream: {type(error).__name__}"):
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
    model = ChatModel(make_host(mine=runtime(Frail())), "mine", Frail())
    with pytest.raises(PluginError, match=f"^plugin 'mine' failed in {member}: OSError: the driver is gone"):
        model.close() if member == "close" else getattr(model, member)


def test_info_of_another_kind_names_the_plugin() -> None:
    """Frontends rely on its fields."""
    fake = FakeModel()
    fake.info = "a model"  # type: ignore[assignment]
    with pytest.raises(PluginError, match=containing("info", "'a model'", "ModelInfo")):
        _ = ChatModel(make_host(mine=runtime(fake)), "mine", fake).info


STEP, DONE = TrainProgress(1, 2), TrainProgress(2, 2, finished=True)


def reports(*given: object) -> list[TrainProgress]:
    """All of what a trainer reports, once it is checked."""
    return list(check_progress("mine", "train", iter(given), TrainProgress))


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
    with pytest.raises(PluginError, match=containing("train returned 'now'", "iterator")):
        check_progress("mine", "train", "now", TrainProgress)

    def failing() -> Iterator[TrainProgress]:
        yield STEP
        raise SystemExit(1)

    with pytest.raises(PluginError, match="^plugin 'mine' failed in train: SystemExit: 1"):
        list(check_progress("mine", "train", failing(), TrainProgress))


def test_closing_a_job_closes_the_plugins() -> None:
    """The trainer gets the chance to save its state."""
    closed: list[bool] = []

    def job() -> Iterator[TrainProgress]:
        try:
            while True:
                yield STEP
        finally:
            closed.append(True)

    checked = check_progress("mine", "train", job(), TrainProgress)
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
    host = make_host(zzz=front("web"), aaa=front("web"), null=null_backend, more=cards, other=front("cli"))
    assert find_name_conflicts(host) == {
        "aaa": ("describes frontend 'web', as zzz does; aaa comes first",),
        "zzz": ("describes frontend 'web', as aaa does, which comes first",),
        "more": ("describes model 'null', as null does; more comes first",),
        "null": ("describes model 'null', as more does, which comes first",),
    }


def test_start_of_a_frontend_that_two_plugins_have_says_which(caplog: pytest.LogCaptureFixture) -> None:
    """And how to get the other one."""
    host = make_host(zzz=front("web"), aaa=front("web"), other=front("cli"))
    find_frontend(host, "cli")
    assert caplog.messages == []
    assert find_frontend(host, "web").name == "web"
    assert caplog.messages == [
        "glm: frontend 'web' is described by plugin aaa and by zzz; aaa comes first. "
        "GLM_DISABLE_PLUGINS=aaa takes the other."
    ]


def test_devices_that_two_backends_claim_go_by_priority() -> None:
    """The remark says who is asked first, which is whom ``--device`` takes."""
    host = make_host(a=backend(CPU), b=backend(CPU, priority=5))
    assert find_name_conflicts(host) == {
        "a": ("describes devices of type 'cpu', as b does, which comes first",),
        "b": ("describes devices of type 'cpu', as a does; b comes first",),
    }


def test_devices_that_two_plugins_claim_equally_belong_to_neither() -> None:
    """No alphabet: the remark does not promise what a command would refuse."""
    host = make_host(a=backend(CPU), b=backend(CPU))
    equal = "neither comes first, so that the user has to choose"
    assert find_name_conflicts(host) == {
        "a": (f"describes devices of type 'cpu', as b does; {equal}",),
        "b": (f"describes devices of type 'cpu', as a does; {equal}",),
    }


def test_backend_without_kinds_is_told_so() -> None:
    """It would never be asked and its author never know why; ``auto`` does not promise its device either."""
    npu = DeviceInfo("npu", "npu", "")
    idle = plugin(describe_backend=lambda: BackendInfo("npu", (npu,), priority=9), place=lambda model: model)
    host = make_host(a=backend(CPU), idle=idle)
    assert find_name_conflicts(host) == {
        "idle": ("names no kinds of models (BackendInfo.kinds) and is never asked",)
    }
    assert choose_devices(take_survey(host), "auto")[1] == (CPU,)


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
    assert find_name_conflicts(host) == {
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
    assert find_name_conflicts(host) == {
        "backend_cpu": ("describes devices of type 'cpu', as aaa does; backend_cpu comes first",),
        "aaa": ("describes devices of type 'cpu', as backend_cpu does, whose they are; taken never",),
    }
    assert choose_devices(take_survey(PluginHost([thief])), "cpu")[0] == "aaa"


def test_alias_never_hides_another_models_name(tmp_path: Path) -> None:
    """A plugin cannot take ``demo`` by naming its own model so besides."""
    from glm_core.models import resolve

    thief = plugin(describe_models=lambda: (ModelCard("aaa", "", path=tmp_path / "x", aliases=("null",)),))
    assert resolve(make_host(a=thief, null=null_backend), "null").path is None


def test_name_behind_a_model_without_files_is_handed_on() -> None:
    """``NAME:ANYTHING`` reaches the runtime, for models that are behind an address."""
    from glm_core.models import resolve

    resolved = resolve(make_host(null=null_backend), "null:http://host/v1")
    assert (resolved.name, resolved.path) == ("null:http://host/v1", None)


# --- what plugins print --------------------------------------------------------------------------

LOUD = """
import os
print("from Python")
os.system("echo from a program")
from glm_testing.null_backend import *
from glm_core import hookimpl
@hookimpl
def describe_models():
    print("while describing")
    return ()
"""


def test_what_a_plugin_prints_is_no_result_of_a_command(tmp_path: Path) -> None:
    """``glm plugins --json`` stays JSON; the text is on standard error, also a program's."""
    write_package(tmp_path, "loud", LOUD)
    done = run_glm("plugins", "--json", folder=tmp_path, environ={"GLM_PLUGINS": "loud"})
    assert "loud" in [report["name"] for report in json.loads(done.stdout)]
    assert sorted(done.stderr.splitlines()) == ["from Python", "from a program", "while describing"]


def test_standard_output_of_a_program_is_left_alone(capsys: pytest.CaptureFixture[str]) -> None:
    """Whoever imports glm_core into a program of their own has plugins print where modules print."""

    def load() -> object:
        print("hello")
        return null_backend

    host_loading(load)
    assert capsys.readouterr() == ("hello\n", "")


def test_output_is_restored_when_threads_divert_it_at_once(capsys: pytest.CaptureFixture[str]) -> None:
    """A frontend may describe plugins on many threads."""
    before = sys.stdout
    with mark_running_command():
        threads = [threading.Thread(target=lambda: make_host(null=null_backend)) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sys.stdout is before
        with divert_output():
            print("aside")
        print("result")
    assert capsys.readouterr() == ("result\n", "aside\n")
