"""Tests of ``glm chat``."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fake_plugins import FakeModel, backend, plugin, runtime

from glm_core import ChatRequest, Message, Sampling, cli
from glm_core.cli import chat
from glm_core.records import Delta, DeviceInfo, ModelCard, Usage
from glm_core.testing import host_of

CPU = DeviceInfo("cpu", "cpu", "a processor")


class Terminal(io.StringIO):
    """Standard input with a person in front of it."""

    def isatty(self) -> bool:
        return True


@pytest.fixture
def requests(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[ChatRequest]:
    """What the runtime was asked; it answers ``你好``, and ``demo`` is installed."""
    asked: list[ChatRequest] = []

    def chat_stream(model: object, request: ChatRequest) -> Iterator[Delta]:
        asked.append(request)
        reason: Any = "length" if request.sampling.max_new_tokens == 1 else "stop"
        return (delta for delta in (Delta("你"), Delta("好"), Delta("", (), reason, Usage(3, 2))))

    cards = (ModelCard("demo", "", path=tmp_path),)
    host = host_of(
        backend=backend(CPU),
        runtime=runtime(FakeModel(("a", "b")), chat_stream),
        models=plugin(describe_models=lambda: cards),
    )
    monkeypatch.setattr(chat, "default_host", lambda: host)
    return asked


def give_input(monkeypatch: pytest.MonkeyPatch, data: bytes) -> None:
    """Put bytes on standard input."""
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(data), encoding="ascii"))


def questions(requests: list[ChatRequest]) -> list[str]:
    """The texts that were asked."""
    return [request.messages[-1].content for request in requests]


def test_answer_goes_to_standard_output_and_notices_to_standard_error(
    requests: list[ChatRequest], capsys: pytest.CaptureFixture[str]
) -> None:
    """The answer can be piped; that the demo model spoke is said beside it."""
    assert cli.main(["chat", "question"]) == 0
    assert questions(requests) == ["question"]
    printed = capsys.readouterr()
    assert printed.out == "你好\n"
    assert printed.err.startswith("glm: model: the bundled demo, a small stand-in;")


def test_demo_that_was_asked_for_is_not_explained(
    requests: list[ChatRequest], capsys: pytest.CaptureFixture[str]
) -> None:
    """Who types ``--model demo`` knows."""
    assert cli.main(["chat", "question", "--model", "demo"]) == 0
    assert "bundled" not in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "question"),
    [
        (["how", "are", "you"], "how are you"),
        (["how", "--greedy", "are", "--seed", "1", "you"], "how are you"),
        (["--greedy", "hello"], "hello"),
        (["--", "--help"], "--help"),
        (["-", "you"], "- you"),
    ],
)
def test_question_may_be_several_words(
    arguments: list[str], question: str, requests: list[ChatRequest]
) -> None:
    """Quotation marks may be left out, and options may stand anywhere."""
    assert cli.main(["chat", *arguments]) == 0
    assert questions(requests) == [question]


@pytest.mark.parametrize("arguments", [["-"], []])
@pytest.mark.parametrize("data", ["你好\n世界\n".encode(), "\ufeff你好\n世界".encode()])
def test_question_is_read_from_standard_input(
    arguments: list[str], data: bytes, requests: list[ChatRequest], monkeypatch: pytest.MonkeyPatch
) -> None:
    """``-`` or, in a pipe, nothing; always as UTF-8, with or without a mark in front."""
    give_input(monkeypatch, data)
    assert cli.main(["chat", *arguments]) == 0
    assert questions(requests) == ["你好\n世界"]


def test_no_question_at_a_terminal_is_refused(
    requests: list[ChatRequest], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """``glm chat`` alone does not wait in silence."""
    monkeypatch.setattr("sys.stdin", Terminal())
    assert cli.main(["chat"]) == 2
    message = "glm chat: error: pass a question, or - to read it from standard input"
    assert message in capsys.readouterr().err
    assert requests == []


def test_no_standard_input_at_all_is_an_error(
    requests: list[ChatRequest], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A service manager may start a program without one."""
    monkeypatch.setattr("sys.stdin", None)
    assert cli.main(["chat", "-"]) == 2
    assert "there is no standard input to read the question from" in capsys.readouterr().err
    assert cli.main(["chat"]) == 2


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (
            b"ab\xff",
            "glm: standard input is not UTF-8 text (invalid start byte at byte 2); convert it first\n",
        ),
        (b"x" * 65, "glm: standard input is longer than 64 bytes; send a shorter question\n"),
        (b" \n", "glm: the question is empty; type something to answer\n"),
    ],
)
def test_unusable_standard_input_is_refused_before_a_model_loads(
    data: bytes, message: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Not UTF-8, too long, or nothing but blanks."""
    monkeypatch.setattr(chat, "MAX_INPUT_BYTES", 64)
    monkeypatch.setattr(chat, "default_host", lambda: pytest.fail("plugins were loaded"))
    give_input(monkeypatch, data)
    assert cli.main(["chat", "-"]) == 2
    assert capsys.readouterr().err == message


def test_input_of_just_the_limit_is_accepted(
    requests: list[ChatRequest], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The limit itself is allowed."""
    monkeypatch.setattr(chat, "MAX_INPUT_BYTES", 64)
    give_input(monkeypatch, b"x" * 64)
    assert cli.main(["chat", "-"]) == 0


def test_argument_that_is_not_utf8_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    """Python hands such bytes over as halves of characters, on which a tokenizer would fail."""
    assert cli.main(["chat", "caf\udce9"]) == 2
    assert "message content is no valid Unicode: half a character at position 3" in capsys.readouterr().err


def test_options_reach_the_request(requests: list[ChatRequest]) -> None:
    """Every option of the command is in the request, and what was not said is left to the model."""
    options = "--system s --stop A --stop B --seed 7 --temperature 0.5 --top-p 0.9 --top-k 5"
    more = "--repetition-penalty 1.1 --max-new-tokens 9 --max-length 99 --greedy --use-adapter b"
    assert cli.main(["chat", "q", *options.split(), *more.split()]) == 0
    sampling = Sampling(9, 99, 0.5, 0.9, 5, 1.1, do_sample=False)
    messages = (Message("system", "s"), Message("user", "q"))
    assert requests == [ChatRequest(messages, sampling, "b", ("A", "B"), 7)]
    cli.main(["chat", "q"])
    assert requests[1] == ChatRequest((Message("user", "q"),))


def test_only_adapter_is_used(requests: list[ChatRequest], tmp_path: Path) -> None:
    """Who loads one adapter for one answer means it to be used."""
    assert cli.main(["chat", "q", "--adapter", f"a={tmp_path}"]) == 0
    assert requests[0].adapter == "a"


def test_among_several_adapters_the_user_chooses(
    requests: list[ChatRequest], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Core does not guess."""
    both = ["--adapter", f"a={tmp_path}", "--adapter", f"b={tmp_path}"]
    assert cli.main(["chat", "q", *both]) == 2
    assert "several adapters are loaded; choose one with --use-adapter: a, b" in capsys.readouterr().err
    assert cli.main(["chat", "q", *both, "--use-adapter", "b"]) == 0
    assert [request.adapter for request in requests] == ["b"]


def test_length_limit_is_noticed(requests: list[ChatRequest], capsys: pytest.CaptureFixture[str]) -> None:
    """An answer that was cut off says so, on standard error."""
    cli.main(["chat", "q", "--max-new-tokens", "1"])
    printed = capsys.readouterr()
    assert printed.out == "你好\n"
    assert printed.err.splitlines()[-1].startswith("glm: the answer reached the length limit; raise it with")
    cli.main(["chat", "q"])
    assert "length limit" not in capsys.readouterr().err


@pytest.mark.usefixtures("requests")
def test_json_is_one_object_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    """Pieces of text as they come, then the reason and the usage; Chinese stays readable."""
    assert cli.main(["chat", "q", "--json"]) == 0
    text = capsys.readouterr().out
    assert "你" in text
    *pieces, last = [json.loads(line) for line in text.splitlines()]
    assert "".join(piece["text"] for piece in pieces) == "你好"
    assert last == {
        "finish_reason": "stop",
        "usage": {
            "prompt_tokens": 3,
            "completion_tokens": 2,
            "dropped_messages": 0,
            "queue_seconds": 0.0,
            "time_to_first_token": 0.0,
            "decode_seconds": 0.0,
        },
    }


def test_interrupt_closes_stream_and_model(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C in the middle of an answer gives 130; the answer is cancelled, then the model closed."""
    closed: list[str] = []
    fake = FakeModel()

    def answer() -> Iterator[Delta]:
        try:
            yield Delta("a")
        finally:
            closed.append("stream")

    def interrupted(deltas: Iterator[Delta]) -> Delta:
        next(deltas)
        raise KeyboardInterrupt

    cards = (ModelCard("m", ""),)
    host = host_of(b=backend(CPU), r=runtime(fake, lambda: answer()), m=plugin(describe_models=lambda: cards))
    monkeypatch.setattr(chat, "default_host", lambda: host)
    monkeypatch.setattr(chat, "_print", interrupted)
    monkeypatch.setattr(fake, "close", lambda: closed.append("model"))
    assert cli.main(["chat", "q", "--model", "m"]) == 130
    assert closed == ["stream", "model"]
