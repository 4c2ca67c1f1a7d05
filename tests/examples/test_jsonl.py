"""The JSON-lines frontend, from its wheel."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from fake_plugins import run_glm, run_python, write_package
from packages import run_kit

SUPPORT = Path(__file__).parents[1] / "support"
NULL = "from glm_testing.null_backend import *"


def test_frontend_keeps_every_promise(installed: Path, tmp_path: Path) -> None:
    """The conformance kit passes; what it skips concerns ports, addresses and screens."""
    attributes = {"plugin": '"frontend_jsonl"', "driver": "Driver"}
    done = run_kit(
        tmp_path, installed, attributes, imports="from jsonl_driver import Driver", search=[SUPPORT]
    )
    assert done.returncode == 0, done.stdout
    assert " 3 skipped" in done.stdout


@pytest.fixture
def null_model(tmp_path: Path) -> Path:
    """A folder with the null runtime as an installed package."""
    write_package(tmp_path, "null", NULL)
    return tmp_path


def converse(installed: Path, null_model: Path, *messages: object, **options: Any) -> list[dict[str, Any]]:
    """What ``glm run jsonl`` says to these lines, after it is ready."""
    text = "".join(f"{line if isinstance(line, str) else json.dumps(line)}\n" for line in messages)
    flags = [f"--{name.replace('_', '-')}={value}" for name, value in options.items()]
    done = run_glm(
        *("run", "jsonl", "--model", "null", "--device", "null", *flags),
        environ={"PYTHONPATH": f"{installed}:{null_model}", "GLM_PLUGINS": "null,frontend_jsonl"},
        input=text,
    )
    assert done.returncode == 0, done.stderr
    ready, *said = [json.loads(line) for line in done.stdout.splitlines()]
    assert ready == {"ready": "null"}
    assert done.stdout.isascii()
    return said


def question(name: str, text: str, **more: object) -> dict[str, object]:
    """A request."""
    return {"id": name, "messages": [{"role": "user", "content": text}], **more}


def test_answer_comes_in_lines(installed: Path, null_model: Path) -> None:
    """Pieces of text, then the reason and the count; Chinese is escaped and comes back as it was."""
    *pieces, end = converse(installed, null_model, question("a", "你好 world"))
    assert "".join(piece["text"] for piece in pieces) == "你好 world"
    assert end == {"id": "a", "finish_reason": "stop", "completion_tokens": 2}


def test_sampling_and_stop_strings_are_passed_on(installed: Path, null_model: Path) -> None:
    """Fields of a request reach the model."""
    said = converse(
        installed, null_model, question("a", "one two three", sampling={"max_new_tokens": 1}, stop=["x"])
    )
    assert said[-1]["finish_reason"] == "length"


@pytest.mark.parametrize(
    ("line", "kind", "sentence"),
    [
        ("nonsense", "RequestError", "a line is not JSON"),
        ("[]", "RequestError", 'a line must be an object with a text "id"'),
        ({"id": "a"}, "RequestError", "the request has the wrong shape: 'messages'"),
        (question("a", "hi", colour="red"), "RequestError", "field 'colour' is unknown; known are adapter,"),
        (question("a", "hi", sampling={"speed": 1}), "RequestError", "the request has the wrong shape: "),
        (question("a", "hi", adapter="poet"), "AdapterError", "adapter 'poet' is not loaded"),
    ],
    ids=str,
)
def test_wrong_line_is_refused_and_the_next_one_answered(
    installed: Path, null_model: Path, line: object, kind: str, sentence: str
) -> None:
    """One sentence, with the kind of error for programs."""
    refusal, *rest = converse(installed, null_model, line, question("b", "still here"))
    assert refusal["kind"] == kind
    assert refusal["error"].startswith(sentence)
    assert rest[-1] == {"id": "b", "finish_reason": "stop", "completion_tokens": 2}


def test_reader_that_goes_away_is_no_error(installed: Path, null_model: Path) -> None:
    """A program that stops reading sees no traceback in the log."""
    program = (
        "import os, subprocess, sys\n"
        "read_end, write_end = os.pipe(); os.close(read_end)\n"
        "command = [sys.executable, '-m', 'glm_core', 'run', 'jsonl', '--device=null', '--model=null']\n"
        "done = subprocess.run(command, stdin=sys.stdin, stdout=write_end, stderr=subprocess.PIPE)\n"
        "sys.exit(b'Traceback' in done.stderr)\n"
    )
    done = run_python(
        *("-c", program),
        environ={"PYTHONPATH": f"{installed}:{null_model}", "GLM_PLUGINS": "null,frontend_jsonl"},
        input=json.dumps(question("a", "hi")) + "\n",
    )
    assert done.returncode == 0, done.stderr


def test_wrong_option_is_refused_before_the_model_is_opened(installed: Path) -> None:
    """Also where the model does not exist."""
    done = run_glm(
        *("run", "jsonl", "--max-requests", "0", "--model", "no-such-model"),
        environ={"PYTHONPATH": str(installed), "GLM_PLUGINS": "frontend_jsonl"},
    )
    assert (done.returncode, done.stderr) == (2, "glm: --max-requests must be 1 or more, got 0\n")
