"""The terminal view on a pipe for keys and an emulated screen."""

import io

import pytest
from glm_frontend_cli._conversation import Conversation, Turn
from glm_frontend_cli._session import Session
from glm_frontend_cli._terminal import TerminalView
from glm_frontend_cli._texts import Texts
from glm_frontend_cli._view import Line
from prompt_toolkit.history import InMemoryHistory
from prompt_toolkit.input import create_pipe_input
from prompt_toolkit.output import DummyOutput
from rich.console import Console


class Keyboard:
    """A terminal view, what it printed, and the keys to send to it."""

    def __init__(self, pipe, language="en", adapters=(), history=()):
        self.pipe = pipe
        self.printed = io.StringIO()
        console = Console(file=self.printed, width=60, height=20, force_terminal=True, color_system=None)
        self.view = TerminalView(
            console, adapters, InMemoryHistory(history), Texts(language), input=pipe, output=DummyOutput()
        )

    def typed(self, keys, prefill=""):
        """Send keys and read a line."""
        self.pipe.send_text(keys)
        return self.view.read(prefill, "status")


@pytest.fixture
def keyboard():
    """A view in English."""
    with create_pipe_input() as pipe:
        yield Keyboard(pipe)


def test_enter_sends_the_line(keyboard):
    """One line, as typed."""
    assert keyboard.typed("你好 world\r") == Line("你好 world")


@pytest.mark.parametrize("keys", ["first\x1b\rsecond\r", "\x1b[200~first\nsecond\x1b[201~\r"])
def test_alt_enter_and_paste_make_new_lines(keyboard, keys):
    """Several lines are one question."""
    assert keyboard.typed(keys) == Line("first\nsecond")


def test_ctrl_d_ends_the_chat(keyboard):
    """On an empty line."""
    assert keyboard.typed("\x04") is None


def test_ctrl_c_clears_the_line(keyboard):
    """What was typed is dropped, and typing goes on."""
    assert keyboard.typed("wrong\x03right\r") == Line("right")


def test_ctrl_c_twice_quits(keyboard):
    """In a row; typing in between calls it off."""
    assert keyboard.typed("wrong\x03\x03") is None
    assert keyboard.typed("\x03a\x03b\r") == Line("b")


def test_ctrl_c_hint_is_in_the_toolbar(keyboard):
    """After the first Ctrl-C the toolbar says what the second one does."""
    keyboard.view._status = "status"
    assert keyboard.view._toolbar() == [("", "status")]
    keyboard.view._keys.about_to_quit = True
    assert keyboard.view._toolbar()[0][1] == "Press Ctrl-C again to quit"


def test_prefilled_line_can_be_edited(keyboard):
    """The question is in the line, the cursor at its end."""
    assert keyboard.typed(", please\r", prefill="question") == Line("question, please", from_prefill=True)


def test_cleared_prefill_is_told(keyboard):
    """After Ctrl-C a line is not an edit any more."""
    assert keyboard.typed("\x03new\r", prefill="question") == Line("new", from_prefill=False)


def test_history_is_a_key_away():
    """The up key brings back what was typed before."""
    with create_pipe_input() as pipe:
        keyboard = Keyboard(pipe)
        keyboard.typed("before\r")
        assert keyboard.typed("\x1b[A\r") == Line("before")


def test_answer_is_painted_as_markdown(keyboard, runtime):
    """Markup becomes looks; what the model hides in control characters does not work."""
    runtime.pieces = ["**bo", "ld** [red]x[/red]\x1b[2J\n\n- it", "em"]
    session = Session(runtime.model, Conversation(), keyboard.view, Texts("en"))
    session.handle(Line("q"))
    printed = keyboard.printed.getvalue()
    assert "[red]x[/red][2J" in printed
    assert "• item" in printed
    assert "\x1b[2J" not in printed


def test_ctrl_c_during_a_painted_answer_keeps_what_came(keyboard, runtime):
    """The answer is marked as stopped and its stream is closed."""
    runtime.pieces, runtime.interrupt_after = ["one", " two"], 1
    session = Session(runtime.model, Conversation(), keyboard.view, Texts("zh"))
    session.handle(Line("q"))
    assert runtime.closed == 1
    assert "已停止" in keyboard.printed.getvalue()


def test_whole_chat_over_the_keyboard(keyboard, runtime):
    """Question, command and farewell, key by key."""
    keyboard.pipe.send_text("hi\r/undo\r\x04")
    session = Session(runtime.model, Conversation(), keyboard.view, Texts("en"))
    session.loop()
    printed = keyboard.printed.getvalue()
    assert "hello" in printed
    assert "Taken back: hi" in printed
    assert session.conversation.turns == []


def test_transcript_shows_questions_and_rendered_answers(keyboard):
    """Loaded text is cleaned before it is shown."""
    keyboard.view.show_turns([Turn("q\x1b[2J", "- a")])
    printed = keyboard.printed.getvalue()
    assert "q[2J" in printed
    assert "• a" in printed
    assert "\x1b[2J" not in printed


def test_screen_without_unicode_gets_a_plain_prompt():
    """The prompt's mark is one that the terminal's encoding has."""
    with create_pipe_input() as pipe:
        keyboard = Keyboard(pipe)
        assert keyboard.view._mark == "❯"
        ascii_console = Console(
            file=io.TextIOWrapper(io.BytesIO(), encoding="ascii"), width=60, force_terminal=True
        )
        view = TerminalView(
            ascii_console, (), InMemoryHistory(), Texts("en"), input=pipe, output=DummyOutput()
        )
        assert view._mark == ">"


def test_clear_empties_the_screen(keyboard):
    """The console is told to."""
    keyboard.view.clear()
    assert "\x1b[2J" in keyboard.printed.getvalue()
