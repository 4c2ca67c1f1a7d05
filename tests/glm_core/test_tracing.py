"""Tests of ``--trace-hooks``."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from fake_plugins import plugin, run_glm, run_python, write_package
from glm_jobs._progress import check_progress
from glm_testing import make_host, null_backend

from glm_core import ChatModel, PluginError
from glm_core.records import BackendInfo, ModelCard, ModelSource, TrainProgress
from glm_core.tracing import enable_tracing

LINE = re.compile(r"trace  (\S+) +(\S+(?: end)?) +[\d.]+ ms  (.*)")
NULL = "from glm_testing.null_backend import *"


def calls(text: str) -> list[tuple[str, ...]]:
    """Plugin, hook and outcome of every line; the times differ."""
    found = [LINE.fullmatch(line) for line in text.splitlines() if line.startswith("trace")]
    assert all(found), text
    return [match.groups() for match in found if match]


@pytest.fixture
def traced() -> Iterator[None]:
    """Tracing is on."""
    with enable_tracing():
        yield


@pytest.mark.usefixtures("traced")
def test_every_kind_of_outcome_has_its_line(capsys: pytest.CaptureFixture[str]) -> None:
    """An answer by its type, a refusal, an error; imports as well."""
    host = make_host(null=null_backend, bad=plugin(place=lambda: 1 / 0, describe_models=lambda: ()))
    host.describe("describe_backend", BackendInfo)
    host.describe_many("describe_models", ModelCard)
    host.call("null", "identify_model", source=ModelSource("other"))
    with pytest.raises(PluginError):
        host.call("bad", "place", model=1, placement=None)
    assert calls(capsys.readouterr().err) == [
        ("null", "import", "API version 2"),
        ("bad", "import", "API version 2"),
        ("null", "describe_backend", "BackendInfo"),
        ("bad", "describe_models", "nothing"),
        ("null", "describe_models", "1 x ModelCard"),
        ("null", "identify_model", "declined"),
        ("bad", "place", "raised ZeroDivisionError: division by zero"),
    ]


@pytest.mark.usefixtures("traced")
def test_stream_is_traced_to_its_end(capsys: pytest.CaptureFixture[str]) -> None:
    """How many deltas, when the first came, how it ended; closed early as well."""
    model = null_backend.load_model(ModelSource("null"))
    assert model is not None
    chat = ChatModel(make_host(null=null_backend), "null", model)
    chat.chat("one two")
    with chat.chat_stream("one two") as deltas:
        next(deltas)
    ends = [call for call in calls(capsys.readouterr().err) if call[1].endswith(" end")]
    assert [re.sub(r"[\d.]+ ms", "T", text) for _, _, text in ends] == [
        "3 items, first after T, stop",
        "1 items, first after T, closed early",
    ]


@pytest.mark.usefixtures("traced")
def test_job_is_traced_to_its_end(capsys: pytest.CaptureFixture[str]) -> None:
    """Reports of training are counted like deltas."""
    given = iter([TrainProgress(1, 1), TrainProgress(1, 1, finished=True)])
    list(check_progress("mine", "train", given, TrainProgress))
    ((name, hook, text),) = calls(capsys.readouterr().err)
    assert (name, hook) == ("mine", "train end")
    assert text.startswith("2 items, first after ")


def test_nothing_is_printed_unless_it_is_asked_for(capsys: pytest.CaptureFixture[str]) -> None:
    """Tracing ends with its block."""
    with enable_tracing(False):
        make_host(null=null_backend)
    with enable_tracing():
        pass
    make_host(null=null_backend)
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("arguments", "environ"),
    [
        (["--trace-hooks", "models"], {}),
        (["models", "--trace-hooks"], {}),
        (["models"], {"GLM_TRACE_HOOKS": "1"}),
    ],
)
def test_every_command_takes_it(arguments: list[str], environ: dict[str, str], tmp_path: Path) -> None:
    """Before or after the command, or from the environment; results stay on standard output."""
    write_package(tmp_path, "null", NULL)
    done = run_glm(*arguments, folder=tmp_path, environ={"GLM_PLUGINS": "null", **environ})
    assert done.returncode == 0, done.stderr
    assert ("null", "describe_models", "1 x ModelCard") in calls(done.stderr)
    assert "trace" not in done.stdout


def test_question_that_looks_like_the_option_can_be_asked(tmp_path: Path) -> None:
    """What comes after ``--`` is text."""
    write_package(tmp_path, "null", NULL)
    done = run_glm(
        *("chat", "--model", "null", "--device", "null", "--", "--trace-hooks"),
        folder=tmp_path,
        environ={"GLM_PLUGINS": "null"},
    )
    assert done.stdout == "--trace-hooks\n", done.stderr
    assert "trace  " not in done.stderr


def test_programs_are_traced_by_the_environment(tmp_path: Path) -> None:
    """A script that calls ``glm_core.load`` has no command line of ours."""
    write_package(tmp_path, "null", NULL)
    program = "import glm_core; glm_core.load('null', device='null').chat('hi')"
    environ = {"GLM_PLUGINS": "null", "GLM_TRACE_HOOKS": "1"}
    done = run_python("-c", program, folder=tmp_path, environ=environ)
    hooks = [hook for _, hook, _ in calls(done.stderr)]
    assert hooks[0] == "import"
    assert hooks[-4:] == ["load_model", "place", "chat_stream", "chat_stream end"]
