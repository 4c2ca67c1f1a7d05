"""The plain view."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any

from glm_frontend_cli._session import Session
from glm_frontend_cli._texts import Texts
from glm_frontend_cli._view import PlainView, TypedLine
from glm_testing import make_host, null_backend

from glm_core import RequestError
from glm_core.chat_model import ChatModel
from glm_core.conversation import Conversation, Turn

if TYPE_CHECKING:
    from tests.glm_frontend_cli.conftest import ScriptedRuntime


class FlushCounter(io.StringIO):
    """Counts flushes."""

    flushes = 0

    def flush(self) -> None:
        """Count."""
        self.flushes += 1


def plain_chat(model: Any, typed: Any, say: Texts) -> tuple[FlushCounter, io.StringIO]:
    """Chat over text streams; stdout and stderr."""
    out, err = FlushCounter(), io.StringIO()
    Session(model, Conversation(), PlainView(io.StringIO(typed), out, err), say).chat()
    return out, err


def test_plain_chat_with_the_null_model(say: Texts) -> None:
    """Each line is answered in turn, commands are obeyed, stop ends it."""
    model = ChatModel(make_host(null=null_backend), "null", null_backend.NullModel("null"))
    out, err = plain_chat(model, "one two\n/set max_new_tokens 1\nthree four\nclear\nstop\nfive\n", say)
    assert out.getvalue() == "one two\nthree\n"
    assert err.getvalue().split("\n") == [
        "max_new_tokens = 1",
        "The answer reached its length limit; change it with /set max_length or /set max_new_tokens",
        "The conversation was cleared",
        "",
    ]


def test_plain_answers_are_flushed_piece_by_piece(runtime: ScriptedRuntime, say: Texts) -> None:
    """A reader of the pipe sees text as it comes."""
    runtime.pieces = ["a", "b", "c"]
    out, _ = plain_chat(runtime.model, "q\n", say)
    assert out.getvalue() == "abc\n"
    assert out.flushes >= 4


def test_plain_output_holds_no_escape_codes(runtime: ScriptedRuntime, say: Texts) -> None:
    """Neither ours nor the model's."""
    runtime.pieces = ["# T\x1b[2J\n", "**b**\n"]
    out, err = plain_chat(runtime.model, "q\n/help\n/history\n", say)
    assert "\x1b" not in out.getvalue() + err.getvalue()
    assert out.getvalue() == "# T[2J\n**b**\n\n"


def test_plain_failure_writes_nothing_to_stdout(runtime: ScriptedRuntime, say: Texts) -> None:
    """A question that fails at once leaves no empty line among the answers."""
    runtime.pieces, runtime.error = [], RequestError("too long")
    out, err = plain_chat(runtime.model, "q\n", say)
    assert (out.getvalue(), err.getvalue()) == ("", "Error: too long\n")


def test_plain_failure_after_text_ends_the_line(runtime: ScriptedRuntime, say: Texts) -> None:
    """The next answer starts on its own line."""
    runtime.error = RequestError("lost")
    out, _ = plain_chat(runtime.model, "q\nq\n", say)
    assert out.getvalue() == "hello\nhello\n"


def test_plain_input_survives_invalid_utf8(runtime: ScriptedRuntime, say: Texts) -> None:
    """Bytes that are no text become replacement characters; a byte order mark is dropped."""
    stdin = io.TextIOWrapper(io.BytesIO(b"\xef\xbb\xbfa \xff b\n"), encoding="utf-8")
    view = PlainView(stdin, io.StringIO(), io.StringIO())
    assert view.read("", "") == TypedLine("a \ufffd b\n")


def test_plain_output_survives_a_narrow_encoding(runtime: ScriptedRuntime, say: Texts) -> None:
    """What the encoding lacks is replaced, not fatal."""
    raw = io.BytesIO()
    stdout = io.TextIOWrapper(raw, encoding="gbk")
    runtime.pieces = ["好👍"]
    Session(runtime.model, Conversation(), PlainView(io.StringIO("q\n"), stdout, io.StringIO()), say).chat()
    assert raw.getvalue().decode("gbk") == "好?\n"


def test_plain_person_gets_a_prompt_on_stderr() -> None:
    """A dumb terminal shows where to type, and stdout stays clean."""

    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    out, err = io.StringIO(), io.StringIO()
    view = PlainView(Terminal("q\n"), out, err)
    assert view.read("", "") == TypedLine("q\n")
    assert view.read("", "") is None
    assert (out.getvalue(), err.getvalue()) == ("", "> > ")


def test_plain_history_marks_questions() -> None:
    """The conversation is shown as text on stderr."""
    err = io.StringIO()
    view = PlainView(io.StringIO(), io.StringIO(), err)
    view.show_turns([Turn("q1", "a1"), Turn("q2", "a2")])
    view.clear()
    assert err.getvalue() == "> q1\n\na1\n\n> q2\n\na2\n"
