"""One chat from line to line."""

from __future__ import annotations

import io
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import pytest
from glm_frontend_cli._session import Session, run
from glm_frontend_cli._texts import Texts
from glm_frontend_cli._view import TypedLine

from glm_core import BusyError, ClosedError, ConfigError, RequestError, Usage
from glm_core.conversation import Turn

if TYPE_CHECKING:
    from tests.glm_frontend_cli.conftest import RecordingView, ScriptedRuntime


def test_question_is_answered_and_kept(
    session: Session, runtime: ScriptedRuntime, view: RecordingView
) -> None:
    """A line of text is asked with everything before it."""
    session.handle(TypedLine("first"))
    session.handle(TypedLine("  second \n"))
    assert session.conversation.turns == [Turn("first", "hello"), Turn("second", "hello")]
    assert [message.content for message in runtime.requests[1].messages] == ["first", "hello", "second"]
    assert view.shown == [("answer", "hello"), ("answer", "hello")]


def test_failed_question_is_shown_in_one_line_and_left_out(
    session: Session, runtime: ScriptedRuntime, view: RecordingView
) -> None:
    """An error does not end the chat, and the question can be asked again."""
    runtime.error = RequestError("too long; shorten it")
    session.handle(TypedLine("q"))
    assert view.last == ("error", "Error: too long; shorten it")
    assert session.conversation.turns == []
    assert session.conversation.unanswered == "q"
    runtime.error = None
    session.handle(TypedLine("/regenerate"))
    assert session.conversation.turns == [Turn("q", "hello")]


def test_other_errors_propagate(
    session: Session, view: RecordingView, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Our own bugs keep their traceback."""

    def broken(stream: Any) -> None:
        raise ZeroDivisionError("bug")

    monkeypatch.setattr(view, "show_answer", broken)
    with pytest.raises(ZeroDivisionError):
        session.handle(TypedLine("q"))


def test_words_of_the_original_work(session: Session, view: RecordingView) -> None:
    """``clear`` and ``stop`` typed alone do what they did in the original."""
    view.lines = [TypedLine("q"), TypedLine(" clear "), TypedLine("stop"), TypedLine("never read")]
    session.chat()
    assert session.conversation.turns == []
    assert view.lines == [TypedLine("never read")]


def test_words_of_the_original_inside_a_sentence_are_text(session: Session, runtime: ScriptedRuntime) -> None:
    """Only alone are they commands."""
    session.handle(TypedLine("stop it"))
    assert runtime.requests[0].messages[-1].content == "stop it"


def test_two_slashes_send_one(session: Session, runtime: ScriptedRuntime) -> None:
    """Text that begins with a slash can be asked about."""
    session.handle(TypedLine("//etc/hosts 是什么？"))
    assert runtime.requests[0].messages[-1].content == "/etc/hosts 是什么？"


def test_empty_line_does_nothing(session: Session, view: RecordingView) -> None:
    """Enter alone is not a question."""
    session.handle(TypedLine(" \n"))
    assert view.shown == []


def test_end_of_input_ends_the_chat(session: Session, view: RecordingView) -> None:
    """Ctrl-D is a way out."""
    session.chat()
    assert view.prefills == [""]


def test_edited_question_replaces_the_last_turn(session: Session, view: RecordingView) -> None:
    """What comes back from the filled input line takes the turn's place."""
    session.conversation.turns = [Turn("q1", "a1"), Turn("q2", "a2")]
    view.lines = [TypedLine("/edit"), TypedLine("q2, better", from_prefill=True), TypedLine("q3")]
    session.chat()
    assert session.conversation.turns == [Turn("q1", "a1"), Turn("q2, better", "hello"), Turn("q3", "hello")]
    assert view.prefills == ["", "q2", "", ""]
    assert "editing the last question" in view.statuses[1]


def test_cancelled_edit_keeps_the_last_turn(session: Session, view: RecordingView) -> None:
    """After Ctrl-C in the filled line, the next question is a new one."""
    session.conversation.turns = [Turn("q1", "a1")]
    view.lines = [TypedLine("/edit"), TypedLine("q2", from_prefill=False)]
    session.chat()
    assert session.conversation.turns == [Turn("q1", "a1"), Turn("q2", "hello")]


def test_emptied_edit_keeps_the_last_turn_and_says_so(session: Session, view: RecordingView) -> None:
    """An empty line leaves everything as it was."""
    session.conversation.turns = [Turn("q1", "a1")]
    view.lines = [TypedLine("/edit"), TypedLine("", from_prefill=True)]
    session.chat()
    assert session.conversation.turns == [Turn("q1", "a1")]
    assert view.last == ("notice", "The last question was left as it was")


def test_edit_of_an_unanswered_question_adds_a_turn(session: Session, view: RecordingView) -> None:
    """A failed question replaces nothing when it is asked in other words."""
    session.conversation.turns = [Turn("q1", "a1")]
    session.conversation.unanswered = "bad"
    view.lines = [TypedLine("/edit"), TypedLine("good", from_prefill=True)]
    session.chat()
    assert session.conversation.turns == [Turn("q1", "a1"), Turn("good", "hello")]


def test_stopped_answer_stays_in_the_conversation(
    session: Session, runtime: ScriptedRuntime, view: RecordingView
) -> None:
    """After Ctrl-C the partial answer is kept, marked, and can be regenerated."""
    runtime.pieces, runtime.interrupt_after = ["one ", "two ", "three"], 2
    session.handle(TypedLine("q"))
    (turn,) = session.conversation.turns
    assert turn == Turn("q", view.shown[0][1])
    assert turn.answer.startswith("one two ")
    assert view.last == ("notice", "Stopped. /regenerate answers again")
    assert runtime.closed == 1
    runtime.interrupt_after = None
    session.handle(TypedLine("/regenerate"))
    assert session.conversation.turns == [Turn("q", "one two three")]


def test_answer_stopped_before_its_first_word_is_left_out(
    session: Session, runtime: ScriptedRuntime, view: RecordingView
) -> None:
    """Nothing to keep: the question waits for /regenerate."""
    runtime.pieces, runtime.interrupt_after = [""], 0
    session.handle(TypedLine("q"))
    assert session.conversation.turns == []
    assert session.conversation.unanswered == "q"
    assert view.last[1].startswith("Stopped before the first word")


def test_notices_follow_the_answer(session: Session, runtime: ScriptedRuntime, view: RecordingView) -> None:
    """Left-out messages, the length limit and an empty answer are told."""
    runtime.usage, runtime.finish_reason = Usage(dropped_messages=4), "length"
    session.handle(TypedLine("q"))
    assert view.shown[-2:] == [
        (
            "notice",
            "The answer reached its length limit; change it with /set max_length or /set max_new_tokens",
        ),
        ("notice", "The conversation is too long; the oldest messages were left out: 4"),
    ]
    runtime.usage, runtime.finish_reason, runtime.pieces = Usage(), "stop", []
    session.handle(TypedLine("q"))
    assert view.last == ("notice", "(the model's answer is empty)")


def test_status_shows_model_adapter_turns_and_speed(session: Session, runtime: ScriptedRuntime) -> None:
    """The toolbar's line grows with what there is to say."""
    assert session.describe_status() == "scripted · turns: 0"
    runtime.adapters = ("law",)
    session.conversation.adapter = "law"
    runtime.usage = Usage(completion_tokens=11, decode_seconds=2.0)
    session.handle(TypedLine("q"))
    assert session.describe_status() == "scripted · adapter law · turns: 1 · 11 tokens · 5.0 tokens/s"
    runtime.usage = Usage(501, 11, time_to_first_token=1.25, decode_seconds=2.0)
    session.handle(TypedLine("q"))
    assert session.describe_status(editing=True) == (
        "editing the last question, Ctrl-C to leave it as it was · scripted · adapter law · turns: 2 · "
        "11 tokens · 5.0 tokens/s · first token 1.25 s · context 25%"
    )
    session.conversation.change("max_length", 1024)
    assert session.describe_status().endswith("context 50%")
    session.handle(TypedLine("clear"))
    assert session.describe_status() == "scripted · adapter law · turns: 0"


def test_status_ends_with_what_the_model_computes_on(session: Session, runtime: ScriptedRuntime) -> None:
    """Device and dtype come last, where a narrow terminal drops them first."""
    runtime.devices, runtime.dtype = ("cuda:0", "cuda:1"), "float16"
    runtime.usage = Usage(completion_tokens=11, decode_seconds=2.0)
    session.handle(TypedLine("q"))
    assert (
        session.describe_status() == "scripted · turns: 1 · 11 tokens · 5.0 tokens/s · cuda:0, cuda:1 float16"
    )


def run_plain(
    monkeypatch: pytest.MonkeyPatch,
    runtime: ScriptedRuntime,
    typed: Any,
    options: Any = None,
    environment: str = "en",
) -> tuple[str, str]:
    """Run the frontend on text streams; what it wrote to stdout and stderr."""
    monkeypatch.setenv("GLM_LANG", environment)
    streams = io.StringIO(typed), io.StringIO(), io.StringIO()
    for name, stream in zip(("stdin", "stdout", "stderr"), streams, strict=True):
        monkeypatch.setattr(sys, name, stream)
    run(lambda: runtime.model, options or {})
    return streams[1].getvalue(), streams[2].getvalue()


def test_run_answers_piped_questions(monkeypatch: pytest.MonkeyPatch, runtime: ScriptedRuntime) -> None:
    """Without a terminal, answers and nothing else go to stdout."""
    runtime.pieces = ["**he", "llo**"]
    assert run_plain(monkeypatch, runtime, "q1\n\nq2") == ("**hello**\n**hello**\n", "")


def test_run_speaks_chinese_where_the_environment_does(
    monkeypatch: pytest.MonkeyPatch, runtime: ScriptedRuntime
) -> None:
    """Notices follow GLM_LANG."""
    assert run_plain(monkeypatch, runtime, "/undo\n", environment="zh_CN.UTF-8") == ("", "还没有对话\n")


def test_run_passes_options_to_the_model(monkeypatch: pytest.MonkeyPatch, runtime: ScriptedRuntime) -> None:
    """System prompt and sampling flags reach the request; a seed of 0 counts as given."""
    options = {"system": "be brief", "temperature": 0.5, "top_k": 7, "seed": 0, "top_p": None}
    run_plain(monkeypatch, runtime, "q\n", options)
    (request,) = runtime.requests
    assert request.messages[0].content == "be brief"
    assert (request.sampling.temperature, request.sampling.top_k, request.seed) == (0.5, 7, 0)
    assert request.sampling.top_p is None


def test_run_starts_from_a_file(
    monkeypatch: pytest.MonkeyPatch, runtime: ScriptedRuntime, tmp_path: Path
) -> None:
    """--load goes on with a saved conversation."""
    path = str(tmp_path / "a.json")
    run_plain(monkeypatch, runtime, f"q1\n/save {path}\n")
    run_plain(monkeypatch, runtime, "q2\n", {"load": path})
    assert [message.content for message in runtime.requests[-1].messages] == ["q1", "hello", "q2"]


@pytest.mark.parametrize("options", [{"load": "/no/such/file.json"}, {"temperature": -1.0}, {"seed": -1}])
def test_run_checks_options_before_it_opens_the_model(
    monkeypatch: pytest.MonkeyPatch, options: dict[str, Any]
) -> None:
    """A bad option costs no waiting for the model."""
    opened = []
    with pytest.raises((ConfigError, RequestError)):
        run(lambda: opened.append(1), options)
    assert opened == []


def test_run_uses_the_only_adapter(monkeypatch: pytest.MonkeyPatch, runtime: ScriptedRuntime) -> None:
    """Who loads one adapter chats with it; with several the choice is left open."""
    runtime.adapters = ("law",)
    said = "Using adapter law; /adapter off goes back to the base model\n"
    assert run_plain(monkeypatch, runtime, "q\n") == ("hello\n", said)
    runtime.adapters = ("law", "poetry")
    said = "Adapters are loaded: law, poetry. Choose one with /adapter NAME\n"
    assert run_plain(monkeypatch, runtime, "q\n") == ("hello\n", said)
    assert [request.adapter for request in runtime.requests] == ["law", None]


def test_run_closes_the_model(monkeypatch: pytest.MonkeyPatch, runtime: ScriptedRuntime) -> None:
    """Leaving the chat gives the model back."""
    model = runtime.model
    monkeypatch.setattr(sys, "stdin", io.StringIO("q\n"))
    monkeypatch.setattr(sys, "stdout", io.StringIO())
    run(lambda: model, {})
    with pytest.raises(ClosedError):
        model.chat("q")


def test_dumb_terminal_gets_the_plain_view(monkeypatch: pytest.MonkeyPatch, runtime: ScriptedRuntime) -> None:
    """TERM=dumb cannot be painted on: a prompt on stderr, the answer as it is on stdout."""

    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    streams = Terminal("q\n"), Terminal(), Terminal()
    for name, stream in zip(("stdin", "stdout", "stderr"), streams, strict=True):
        monkeypatch.setattr(sys, name, stream)
    monkeypatch.setenv("TERM", "dumb")
    monkeypatch.setenv("GLM_LANG", "en")
    runtime.pieces = ["**bold**"]
    run(lambda: runtime.model, {})
    assert streams[1].getvalue() == "**bold**\n"
    assert streams[2].getvalue() == "Loading the model …\n> > "


def test_run_passes_on_that_the_reader_has_gone(
    monkeypatch: pytest.MonkeyPatch, runtime: ScriptedRuntime
) -> None:
    """``| head`` closes the pipe; the answer is cancelled, and the command says so and sets its status."""

    class ClosedPipe(io.StringIO):
        def write(self, text: str) -> int:
            raise BrokenPipeError

    monkeypatch.setattr(sys, "stdin", io.StringIO("q1\nq2\n"))
    monkeypatch.setattr(sys, "stdout", ClosedPipe())
    with pytest.raises(BrokenPipeError):
        run(lambda: runtime.model, {})
    assert runtime.closed == 1


def test_piped_ctrl_c_ends_the_program(monkeypatch: pytest.MonkeyPatch, runtime: ScriptedRuntime) -> None:
    """Nobody is there to go on chatting, so Ctrl-C is passed on once the answer is closed."""
    runtime.pieces, runtime.interrupt_after = ["one ", "two "], 1
    with pytest.raises(KeyboardInterrupt):
        run_plain(monkeypatch, runtime, "q1\nq2\n")
    assert (runtime.closed, len(runtime.requests)) == (1, 1)


def test_adapter_error_is_shown_like_any_other(session: Session, view: RecordingView) -> None:
    """An adapter that went away is one line, too."""
    session.conversation.adapter = "gone"
    session.handle(TypedLine("q"))
    assert view.last == ("error", "Error: adapter 'gone' is not loaded; loaded are: none")


def test_session_starts_with_the_conversation_it_is_given(
    session: Session, runtime: ScriptedRuntime, view: RecordingView, say: Texts
) -> None:
    """An adapter of the conversation that is not loaded is dropped at the start."""
    session.conversation.adapter = "gone"
    Session(runtime.model, session.conversation, view, say)
    assert session.conversation.adapter is None
    assert view.last[0] == "notice"


@pytest.mark.parametrize(
    ("language", "sentence"),
    [
        ("en", "The model is busy and its queue is full, so nothing was asked; try /regenerate in a moment"),
        ("zh", "模型正忙，排队已满，这个问题没有提交；稍后用 /regenerate 重新提问"),
    ],
)
def test_busy_model_is_one_sentence_and_the_question_waits(
    session: Session,
    runtime: ScriptedRuntime,
    view: RecordingView,
    language: Literal["zh", "en"],
    sentence: str,
) -> None:
    """The chat lives on and /regenerate asks what could not be asked."""
    session.say = Texts(language)
    runtime.refusal = BusyError("65 requests are running or waiting")
    session.handle(TypedLine("q"))
    assert view.shown == [("error", sentence)]
    assert session.conversation.turns == []
    runtime.refusal = None
    session.handle(TypedLine("/regenerate"))
    assert session.conversation.turns == [Turn("q", "hello")]


@pytest.mark.parametrize(
    ("language", "sentence"),
    [
        ("en", "The conversation is too long; the oldest messages were left out: 4"),
        ("zh", "对话太长，最早的 4 条消息没有交给模型"),
    ],
)
def test_trimmed_history_is_noticed_once_per_answer(
    session: Session,
    runtime: ScriptedRuntime,
    view: RecordingView,
    language: Literal["zh", "en"],
    sentence: str,
) -> None:
    """Each answer whose history was trimmed says so once, in the user's language."""
    session.say = Texts(language)
    runtime.usage = Usage(dropped_messages=4)
    session.handle(TypedLine("q"))
    session.handle(TypedLine("q"))
    assert view.shown == [("answer", "hello"), ("notice", sentence)] * 2


def test_busy_and_trimmed_leave_no_trace_on_a_pipe(
    monkeypatch: pytest.MonkeyPatch, runtime: ScriptedRuntime
) -> None:
    """Queue, refusal and trimmed history are nothing that a reader of stdout sees."""
    runtime.queue, runtime.usage = (2, 1), Usage(dropped_messages=4)
    out, err = run_plain(monkeypatch, runtime, "q\n")
    assert out == "hello\n"
    assert err == "The conversation is too long; the oldest messages were left out: 4\n"
    runtime.refusal = BusyError("full")
    out, err = run_plain(monkeypatch, runtime, "q\n")
    assert out == ""
    assert err.startswith("The model is busy")


@pytest.mark.parametrize("word", ["exit", "quit"])
def test_words_of_other_chats_quit_where_a_person_types(
    session: Session, runtime: ScriptedRuntime, view: RecordingView, word: str
) -> None:
    """In a pipe they are questions like any other."""
    view.lines = [TypedLine(word), TypedLine("never read")]
    session.chat()
    assert view.lines == [TypedLine("never read")]
    view.can_prefill, session._running = False, True
    session.handle(TypedLine(word))
    assert runtime.requests[0].messages[-1].content == word


@pytest.mark.parametrize("line", ["、undo", "／undo"])
def test_slash_of_a_chinese_keyboard_is_a_slash(
    session: Session, runtime: ScriptedRuntime, line: str
) -> None:
    """Before the name of a command; other text that begins so is a question."""
    session.conversation.record(Turn("q", "a"))
    session.handle(TypedLine(line))
    assert session.conversation.turns == []
    session.handle(TypedLine("、是什么标点"))
    assert runtime.requests[0].messages[-1].content == "、是什么标点"
