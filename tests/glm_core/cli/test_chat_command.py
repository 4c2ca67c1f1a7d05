"""Tests of ``glm chat``."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyte
import pytest
from fake_plugins import FakeModel, backend, plugin, runtime
from glm_testing import make_host

from glm_core import BusyError, ChatRequest, Message, Sampling, cli
from glm_core.cli import chat
from glm_core.records import Delta, DeviceInfo, ModelCard, Usage

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
    host = make_host(
        backend=backend(CPU),
        runtime=runtime(FakeModel(("a", "b")), chat_stream),
        models=plugin(describe_models=lambda: cards),
    )
    monkeypatch.setattr(chat, "get_default_host", lambda: host)
    return asked


def test_what_goes_wrong_in_the_middle_is_said_on_a_line_of_its_own(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """The pieces that came stay, and the message does not stick to the last of them."""
    pieces = runtime(FakeModel(), lambda request: (delta for delta in [Delta("half")]))
    monkeypatch.setattr(chat, "get_default_host", lambda: make_host(b=backend(CPU), r=pieces))
    assert cli.main(["chat", "hi", "--model", str(tmp_path)]) == 2
    printed = capsys.readouterr()
    assert printed.out == "half\n"
    assert printed.err.splitlines()[-1].startswith("glm: plugin 'r': chat_stream ended without")


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
    monkeypatch.setattr(chat, "get_default_host", lambda: pytest.fail("plugins were loaded"))
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


def test_only_adapter_is_used_and_that_is_said(
    requests: list[ChatRequest], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Who loads one adapter for one answer means it to be used; a line says so where nobody named it."""
    said = "glm: answering with adapter a, the only one that was loaded"
    assert cli.main(["chat", "q", "--adapter", f"a={tmp_path}"]) == 0
    assert requests[0].adapter == "a"
    printed = capsys.readouterr()
    assert said in printed.err.splitlines()
    assert printed.out == "你好\n"
    cli.main(["chat", "q", "--adapter", f"a={tmp_path}", "--use-adapter", "a"])
    cli.main(["chat", "q"])
    assert "adapter" not in capsys.readouterr().err
    assert [request.adapter for request in requests] == ["a", "a", None]


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
            "cached_tokens": 0,
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

    def interrupted(deltas: Iterator[Delta], as_json: bool) -> Delta:
        next(deltas)
        raise KeyboardInterrupt

    cards = (ModelCard("m", ""),)
    host = make_host(
        b=backend(CPU), r=runtime(fake, lambda: answer()), m=plugin(describe_models=lambda: cards)
    )
    monkeypatch.setattr(chat, "get_default_host", lambda: host)
    monkeypatch.setattr(chat, "_print", interrupted)
    monkeypatch.setattr(fake, "close", lambda: closed.append("model"))
    assert cli.main(["chat", "q", "--model", "m"]) == 130
    assert closed == ["stream", "model"]


def answers_with(monkeypatch: pytest.MonkeyPatch, *deltas: Delta, busy: bool = False) -> None:
    """A model ``m`` whose answer is these deltas, or that takes no request."""

    def chat_stream(model: object, request: ChatRequest) -> Iterator[Delta]:
        if busy:
            raise BusyError("65 requests are running or waiting; try again later")
        return (delta for delta in deltas)

    cards = (ModelCard("m", ""),)
    host = make_host(
        b=backend(CPU), r=runtime(FakeModel(), chat_stream), m=plugin(describe_models=lambda: cards)
    )
    monkeypatch.setattr(chat, "get_default_host", lambda: host)


QUEUED = (
    Delta("", queue_position=12),
    Delta("", queue_position=2),
    Delta(""),
    Delta("你"),
    Delta(""),
    Delta("好"),
    Delta("", (), "stop", Usage()),
)


@pytest.mark.parametrize(
    ("language", "lines"),
    [
        ("en", ["thinking …", "waiting, requests ahead: 12 …", "waiting, requests ahead: 2 …", "thinking …"]),
        ("zh", ["思考中……", "排队中，前面还有 12 个请求……", "排队中，前面还有 2 个请求……", "思考中……"]),
    ],
)
def test_waiting_is_shown_to_a_person_and_wiped_before_the_answer(
    language: str,
    lines: list[str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """One line on a terminal's standard error, each text over the last; no trace is left of it."""
    monkeypatch.setenv("GLM_LANG", language)
    answers_with(monkeypatch, *QUEUED)
    screen = Terminal()
    monkeypatch.setattr("sys.stderr", screen)
    assert cli.main(["chat", "q", "--model", "m", "--device", "cpu"]) == 0
    assert capsys.readouterr().out == "你好\n"
    _, *shown = screen.getvalue().split("\r")
    assert [text for text in shown if text.strip()] == [f"glm: {text}" for text in lines]
    screen_line = pyte.Screen(60, 30)
    pyte.Stream(screen_line).feed(screen.getvalue().replace("\n", "\r\n"))
    assert "glm: " + lines[-1][:2] not in "".join(screen_line.display)
    assert "".join(screen_line.display[screen_line.cursor.y :]).strip() == ""


def test_waiting_is_not_shown_in_a_pipe(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Neither stream holds anything of it, and JSON has no empty pieces."""
    answers_with(monkeypatch, *QUEUED)
    assert cli.main(["chat", "q", "--model", "m", "--device", "cpu"]) == 0
    printed = capsys.readouterr()
    assert printed.out == "你好\n"
    assert "waiting" not in printed.err
    assert "thinking" not in printed.err
    assert cli.main(["chat", "q", "--model", "m", "--device", "cpu", "--json"]) == 0
    pieces = [json.loads(line).get("text") for line in capsys.readouterr().out.splitlines()]
    assert pieces == ["你", "好", None]


def test_waiting_line_is_wiped_when_the_answer_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    """The error stands on a line of its own."""

    def refused() -> Iterator[Delta]:
        yield Delta("", queue_position=1)
        raise BusyError("lost its place")

    cards = (ModelCard("m", ""),)
    host = make_host(
        b=backend(CPU),
        r=runtime(FakeModel(), lambda: refused()),
        m=plugin(describe_models=lambda: cards),
    )
    monkeypatch.setattr(chat, "get_default_host", lambda: host)
    monkeypatch.setenv("GLM_LANG", "en")
    screen = Terminal()
    monkeypatch.setattr("sys.stderr", screen)
    assert cli.main(["chat", "q", "--model", "m", "--device", "cpu"]) == 2
    assert screen.getvalue().endswith("\rglm: lost its place\n")


@pytest.mark.parametrize(
    ("language", "line"),
    [
        ("en", "glm: the conversation is too long; the oldest messages were left out: 3"),
        ("zh", "glm: 内容太长，最早的 3 条消息没有交给模型"),
    ],
)
def test_trimmed_history_is_noticed(
    language: str, line: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Once, on standard error, in the user's language."""
    monkeypatch.setenv("GLM_LANG", language)
    answers_with(monkeypatch, Delta("a"), Delta("", (), "stop", Usage(dropped_messages=3)))
    assert cli.main(["chat", "q", "--model", "m", "--device", "cpu"]) == 0
    printed = capsys.readouterr()
    assert printed.out == "a\n"
    assert printed.err.splitlines().count(line) == 1


def test_busy_model_is_one_sentence(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Nothing on standard output, no traceback, and the status of an error."""
    answers_with(monkeypatch, busy=True)
    assert cli.main(["chat", "q", "--model", "m", "--device", "cpu"]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.splitlines()[-1] == "glm: 65 requests are running or waiting; try again later"


def test_runtime_and_device_map_are_checked_before_the_model_is_opened(
    requests: list[ChatRequest], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """``--runtime`` takes the runtime's name and its plugin's; a map must suit the one device."""
    for options in (["--runtime", "fake"], ["--runtime", "runtime"], ["--device-map", '{"": "cpu"}']):
        assert cli.main(["chat", "hello", *options]) == 0
    assert len(requests) == 3
    (tmp_path / "map.json").write_text('{"": "npu"}')
    for options, words in (
        (["--runtime", "vllm"], ("vllm", "auto, fake")),
        (["--device", "cpu", "--device-map", str(tmp_path / "map.json")], ("npu", "cpu alone")),
        (["--device-map", "{"], ("--device-map", "JSON")),
    ):
        assert cli.main(["chat", "hello", *options]) == 2
        error = capsys.readouterr().err
        assert all(word in error for word in words)
    assert len(requests) == 3
