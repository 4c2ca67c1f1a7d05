"""The terminal view on a pipe for keys and an emulated screen."""

from __future__ import annotations

import io
import os
import select
import termios
import tty
from collections.abc import Iterator
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, Literal

import pyte
import pytest
from glm_frontend_cli._session import Session
from glm_frontend_cli._terminal import TerminalView, _fit_status, _hide_keys
from glm_frontend_cli._texts import Texts
from glm_frontend_cli._view import TypedLine
from prompt_toolkit.history import InMemoryHistory
from prompt_toolkit.input import create_pipe_input
from prompt_toolkit.output import DummyOutput
from rich.console import Console

from glm_core.conversation import Conversation, Turn

if TYPE_CHECKING:
    from tests.glm_frontend_cli.conftest import ScriptedRuntime

PASTE = "\n".join(f"第 {number} 行" for number in range(200))
ENTER_PASTE = f"\x1b[200~{PASTE}\x1b[201~"


class Keyboard:
    """A terminal view, what it printed, and the keys to send to it."""

    def __init__(
        self,
        pipe: Any,
        language: Literal["zh", "en"] = "en",
        adapters: tuple[Any, ...] = (),
        history: tuple[Any, ...] = (),
    ) -> None:
        self.pipe = pipe
        self.printed = io.StringIO()
        console = Console(file=self.printed, width=60, height=20, force_terminal=True, color_system=None)
        self.view = TerminalView(
            console,
            lambda: adapters,
            InMemoryHistory(history),
            Texts(language),
            input=pipe,
            output=DummyOutput(),
        )

    def typed(self, keys: Any, prefill: str = "") -> Any:
        """Send keys and read a line."""
        self.pipe.send_text(keys)
        return self.view.read(prefill, "status")


@pytest.fixture
def keyboard() -> Iterator[Any]:
    """A view in English."""
    with create_pipe_input() as pipe:
        yield Keyboard(pipe)


def test_enter_sends_the_line(keyboard: Any) -> None:
    """One line, as typed."""
    assert keyboard.typed("你好 world\r") == TypedLine("你好 world")


@pytest.mark.parametrize(
    "keys",
    [
        "first\x1b\rsecond\r",
        "first\nsecond\r",
        "first\\\rsecond\r",
        "\x1b[200~first\nsecond\x1b[201~\r",
        "\x1b[200~first\r\nsecond\x1b[201~\r",
    ],
)
def test_several_lines_are_one_question(keyboard: Any, keys: str) -> None:
    """Alt-Enter, Ctrl-J, a backslash before Enter, and a paste make new lines."""
    assert keyboard.typed(keys) == TypedLine("first\nsecond")


def test_ctrl_d_ends_the_chat(keyboard: Any) -> None:
    """On an empty line."""
    assert keyboard.typed("\x04") is None


def test_ctrl_c_clears_the_line(keyboard: Any) -> None:
    """What was typed is dropped, and typing goes on."""
    assert keyboard.typed("wrong\x03right\r") == TypedLine("right")


def test_ctrl_c_twice_quits(keyboard: Any) -> None:
    """In a row; typing in between calls it off."""
    assert keyboard.typed("wrong\x03\x03") is None
    assert keyboard.typed("\x03a\x03b\r") == TypedLine("b")


def test_ctrl_c_hint_is_in_the_toolbar(keyboard: Any) -> None:
    """After the first Ctrl-C the toolbar says what the second one does."""
    keyboard.view._status = "status"
    assert keyboard.view._make_toolbar() == [("", "status")]
    assert keyboard.view._make_placeholder() == [("class:placeholder", "Ask something, or /help")]
    keyboard.view._keys.about_to_quit = True
    assert keyboard.view._make_toolbar()[0][1] == "Press Ctrl-C again to quit"


def test_prefilled_line_can_be_edited(keyboard: Any) -> None:
    """The question is in the line, the cursor at its end."""
    assert keyboard.typed(", please\r", prefill="question") == TypedLine(
        "question, please", from_prefill=True
    )


def test_cleared_prefill_is_told(keyboard: Any) -> None:
    """After Ctrl-C a line is not an edit any more."""
    assert keyboard.typed("\x03new\r", prefill="question") == TypedLine("new", from_prefill=False)


def test_history_is_a_key_away() -> None:
    """The up key brings back what was typed before."""
    with create_pipe_input() as pipe:
        keyboard = Keyboard(pipe)
        keyboard.typed("before\r")
        assert keyboard.typed("\x1b[A\r") == TypedLine("before")


def test_answer_is_painted_as_markdown(keyboard: Any, runtime: ScriptedRuntime) -> None:
    """Markup becomes looks; what the model hides in control characters does not work."""
    runtime.pieces = ["**bo", "ld** [red]x[/red]\x1b[2J\n\n- it", "em"]
    session = Session(runtime.model, Conversation(), keyboard.view, Texts("en"))
    session.handle(TypedLine("q"))
    printed = keyboard.printed.getvalue()
    assert "[red]x[/red][2J" in printed
    assert "• item" in printed
    assert "\x1b[2J" not in printed


def test_ctrl_c_during_a_painted_answer_keeps_what_came(keyboard: Any, runtime: ScriptedRuntime) -> None:
    """The answer is marked as stopped and its stream is closed."""
    runtime.pieces, runtime.interrupt_after = ["one", " two"], 1
    session = Session(runtime.model, Conversation(), keyboard.view, Texts("zh"))
    session.handle(TypedLine("q"))
    assert runtime.closed == 1
    assert "已停止" in keyboard.printed.getvalue()


def test_whole_chat_over_the_keyboard(keyboard: Any, runtime: ScriptedRuntime) -> None:
    """Question, command and farewell, key by key."""
    keyboard.pipe.send_text("hi\r/undo\r\x04")
    session = Session(runtime.model, Conversation(), keyboard.view, Texts("en"))
    session.chat()
    printed = keyboard.printed.getvalue()
    assert "hello" in printed
    assert "Taken back: hi" in printed
    assert session.conversation.turns == []


def test_transcript_shows_questions_and_rendered_answers(keyboard: Any) -> None:
    """Loaded text is cleaned before it is shown."""
    keyboard.view.show_turns([Turn("q\x1b[2J", "- a")])
    printed = keyboard.printed.getvalue()
    assert "q[2J" in printed
    assert "• a" in printed
    assert "\x1b[2J" not in printed


def test_screen_without_unicode_gets_a_plain_prompt() -> None:
    """The prompt's mark is one that the terminal's encoding has."""
    with create_pipe_input() as pipe:
        keyboard = Keyboard(pipe)
        assert keyboard.view._mark == "❯"
        ascii_console = Console(
            file=io.TextIOWrapper(io.BytesIO(), encoding="ascii"), width=60, force_terminal=True
        )
        view = TerminalView(
            ascii_console,
            lambda: (),
            InMemoryHistory(),
            Texts("en"),
            input=pipe,
            output=DummyOutput(),
        )
        assert view._mark == ">"


def test_clear_empties_the_screen(keyboard: Any) -> None:
    """The console is told to."""
    keyboard.view.clear()
    assert "\x1b[2J" in keyboard.printed.getvalue()


def test_long_paste_is_a_mark_in_the_line_and_whole_in_the_question(keyboard: Any) -> None:
    """Two hundred lines do not fill the screen, and every one of them is sent."""
    assert keyboard.typed(f"sum up {ENTER_PASTE}, please\r") == TypedLine(f"sum up {PASTE}, please")
    assert keyboard.view._prompt.history.get_strings()[-1] == "sum up [paste 1: 200 lines], please"


def test_backspace_takes_back_a_paste_at_once(keyboard: Any) -> None:
    """A mark is one thing; letters go one by one."""
    assert keyboard.typed(f"a{ENTER_PASTE}bc\x7f\x7f\x7f!\r") == TypedLine("a!")


def test_history_search_finds_takes_and_is_left(keyboard: Any) -> None:
    """Enter takes what Ctrl-R found and sends it only when pressed again; Ctrl-C ends the search alone."""
    keyboard.typed("one question\r")
    keyboard.typed("two questions\r")
    assert keyboard.typed("\x12one\r\r") == TypedLine("one question")
    assert keyboard.typed("kept\x12one\x03\r") == TypedLine("kept")


def test_search_calls_quitting_off(keyboard: Any) -> None:
    """Between two Ctrl-C that are to quit, nothing else is pressed."""
    keyboard.typed("one question\r")
    assert keyboard.typed("\x03\x12one\x03\x03b\r") == TypedLine("b")


def test_status_loses_its_last_parts_where_there_is_no_room() -> None:
    """Parts are shown whole or not at all; the first always."""
    assert _fit_status("模型 · b · c", 12) == "模型 · b · c"
    assert _fit_status("模型 · b · c", 11) == "模型 · b"
    assert _fit_status("模型 · b · c", 2) == "模型"


@pytest.fixture
def every_frame(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each delta is painted, however fast they come."""
    monkeypatch.setattr("glm_frontend_cli._live.time", SimpleNamespace(monotonic=lambda: 0.0))
    monkeypatch.setattr("glm_frontend_cli._live.MIN_FRAME_SECONDS", 0.0)


@pytest.mark.usefixtures("every_frame")
@pytest.mark.parametrize(
    ("language", "queued", "thinking"),
    [
        ("en", "Waiting; requests before this one: 2 …", "Thinking …"),
        ("zh", "排队中，前面还有 2 个请求……", "思考中……"),
    ],
)
def test_queue_position_is_shown_and_gone_afterwards(
    runtime: ScriptedRuntime, language: Literal["zh", "en"], queued: str, thinking: str
) -> None:
    """First the place in the queue, then that the model thinks; beside the answer no trace of either."""
    with create_pipe_input() as pipe:
        keyboard = Keyboard(pipe, language)
        runtime.queue, runtime.pieces = (2, 0), ("done",)
        session = Session(runtime.model, Conversation(), keyboard.view, Texts(language))
        session.handle(TypedLine("q"))
    printed = keyboard.printed.getvalue()
    assert printed.index(queued) < printed.index(thinking) < printed.index("done")
    screen = pyte.Screen(60, 20)
    pyte.Stream(screen).feed(printed.replace("\n", "\r\n"))
    assert [line.rstrip() for line in screen.display if line.strip()] == ["done"]


@pytest.mark.usefixtures("every_frame")
def test_speed_stands_below_the_text_while_it_comes(keyboard: Any, runtime: ScriptedRuntime) -> None:
    """It is painted over, and the finished answer stands alone."""
    runtime.pieces = ("one ", "two")
    session = Session(runtime.model, Conversation(), keyboard.view, Texts("en"))
    session.handle(TypedLine("q"))
    printed = keyboard.printed.getvalue()
    assert "1 tokens · 0.0 tokens/s (Ctrl-C stops)" in printed
    screen = pyte.Screen(60, 20)
    pyte.Stream(screen).feed(printed.replace("\n", "\r\n"))
    assert [line.rstrip() for line in screen.display if line.strip()] == ["one two"]


@pytest.mark.parametrize(("encoding", "spinner"), [("utf-8", "⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏"), ("gbk", "|/-\\")])
def test_spinner_is_made_of_what_the_encoding_has(encoding: str, spinner: str) -> None:
    """A Chinese Windows console gets one of plain characters."""
    with create_pipe_input() as pipe:
        console = Console(
            file=io.TextIOWrapper(io.BytesIO(), encoding=encoding), width=60, force_terminal=True
        )
        view = TerminalView(console, tuple, InMemoryHistory(), Texts("zh"), input=pipe, output=DummyOutput())
        assert view._spinner == spinner


def test_copy_asks_the_terminal(keyboard: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where no program does it."""
    monkeypatch.setattr("glm_frontend_cli._clipboard.PROGRAMS", ())
    assert keyboard.view.copy("x") is False
    assert keyboard.printed.getvalue() == "\x1b]52;c;eA==\x07"


def test_keys_pressed_during_an_answer_wait_as_they_were_pressed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Enter stays Enter for the next input line, and nothing is echoed into the answer."""
    ours, theirs = os.openpty()
    with open(theirs, "rb", buffering=0) as terminal:
        monkeypatch.setattr("sys.stdin", terminal)
        with _hide_keys():
            os.write(ours, b"x\r")
            assert select.select([theirs], [], [], 60)[0]
        tty.setraw(theirs, termios.TCSANOW)
        assert os.read(theirs, 2) == b"x\r"
        assert not select.select([ours], [], [], 0)[0]
    os.close(ours)
