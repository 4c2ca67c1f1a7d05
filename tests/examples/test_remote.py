"""The remote runtime, from its wheel, against our own HTTP API."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from api_support import ScriptedRuntime, Served, serving
from fake_plugins import run_glm, run_python
from glm_testing import make_host, null_backend
from packages import run_kit

from glm_core import ChatModel
from glm_core.records import ModelSource, Placement


@pytest.fixture(scope="module")
def null_server() -> Iterator[Served]:
    """A server of the null model, which answers with the words of the question."""
    model = null_backend.load_model(ModelSource("null"))
    assert model is not None
    placed = null_backend.place(model, Placement(("null",)))
    assert placed is not None
    with serving(ChatModel(make_host(null=null_backend), "null", placed)) as served:
        yield served


@pytest.fixture
def scripted() -> Iterator[tuple[ScriptedRuntime, Served]]:
    """A server whose model does what it is asked."""
    runtime = ScriptedRuntime()
    with serving(runtime.model) as served:
        yield runtime, served
        runtime.gate.set()


def ask(installed: Path, served: Served, *arguments: str, **environ: str) -> tuple[int, str, str]:
    """``glm chat`` on the server: status, answer and complaints."""
    done = run_glm(
        *("chat", "--device", "remote", "--model", f"remote:{served.url}/v1", *arguments),
        environ={"PYTHONPATH": str(installed), "GLM_PLUGINS": "remote", **environ},
    )
    return done.returncode, done.stdout, done.stderr


def test_runtime_keeps_every_promise(installed: Path, null_server: Served, tmp_path: Path) -> None:
    """The conformance kit passes on a model behind a server.

    Left out is what looks at token ids, which OpenAI's API does not tell.
    """
    attributes = {"plugin": '"remote"', "model": f'"remote:{null_server.url}/v1"', "device": '"remote"'}
    done = run_kit(tmp_path, installed, attributes, options=["-k", "not token-counts"])
    assert done.returncode == 0, done.stdout
    assert "passed" in done.stdout


def test_answer_of_a_server_reaches_the_terminal(installed: Path, null_server: Served) -> None:
    """``glm chat`` needs neither torch nor a checkpoint."""
    status, answer, said = ask(installed, null_server, "你好 world")
    assert (status, answer) == (0, "你好 world\n"), said


def test_wanted_model_is_named_after_the_address(installed: Path, null_server: Served) -> None:
    """``#NAME`` chooses one; a wrong one is refused with those there are."""
    address = f"remote:{null_server.url}/v1#other"
    done = run_glm(
        *("chat", "--device", "remote", "--model", address, "hi"),
        environ={"PYTHONPATH": str(installed), "GLM_PLUGINS": "remote"},
    )
    assert done.returncode == 2
    assert "serves no model 'other'; it serves: null" in done.stderr


def test_server_that_is_not_there_is_one_sentence(installed: Path) -> None:
    """No traceback, and the address."""
    done = run_glm(
        *("chat", "--device", "remote", "--model", "remote:http://127.0.0.1:9/v1", "hi"),
        environ={"PYTHONPATH": str(installed), "GLM_PLUGINS": "remote"},
    )
    assert done.returncode == 2
    assert "glm: http://127.0.0.1:9/v1 cannot be reached: " in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("question", "sentence"),
    [
        ("refuse busy", "the server says 429: the queue is full"),
        ("refuse long", "the server says 400: the question has 9 tokens"),
        ("fail memory", "the server gave up: "),
    ],
)
def test_errors_of_the_server_are_passed_on(
    installed: Path, scripted: tuple[ScriptedRuntime, Served], question: str, sentence: str
) -> None:
    """Whether it refuses at once or fails in the middle of an answer."""
    status, _, said = ask(installed, scripted[1], question)
    assert status == 2
    assert f"glm: {sentence}" in said
    assert "Traceback" not in said


def test_closing_an_answer_closes_it_at_the_server(
    installed: Path, scripted: tuple[ScriptedRuntime, Served]
) -> None:
    """The server stops generating for a reader that is gone."""
    runtime, served = scripted
    program = (
        "import sys, glm_core\n"
        "model = glm_core.load(sys.argv[1], device='remote')\n"
        "with model.chat_stream('forever') as deltas:\n"
        "    print(next(deltas).text)\n"
        "with model.chat_stream('say after all') as deltas:\n"
        "    print(''.join(delta.text for delta in deltas))\n"
    )
    environ = {"PYTHONPATH": str(installed), "GLM_PLUGINS": "remote"}
    done = run_python("-c", program, f"remote:{served.url}/v1", environ=environ)
    assert done.stdout == "0 \nafter all\n", done.stderr
    assert runtime.open_streams == set()


def test_nothing_heavy_is_imported(installed: Path, null_server: Served) -> None:
    """A whole conversation loads neither torch nor transformers nor numpy."""
    program = (
        "import json, sys, glm_core\n"
        "with glm_core.load(sys.argv[1], device='remote') as model: model.chat('hi')\n"
        "print(json.dumps([name for name in ('torch', 'transformers', 'numpy') if name in sys.modules]))\n"
    )
    environ = {"PYTHONPATH": str(installed), "GLM_PLUGINS": "remote"}
    done = run_python("-c", program, f"remote:{null_server.url}/v1", environ=environ)
    assert json.loads(done.stdout) == [], done.stderr
