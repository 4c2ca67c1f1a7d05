"""The screen of a real terminal: an editable input line, answers painted as Markdown."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from prompt_toolkit import PromptSession
from prompt_toolkit.application import get_app
from prompt_toolkit.buffer import Buffer
from prompt_toolkit.filters import is_searching
from prompt_toolkit.formatted_text import StyleAndTextTuples
from prompt_toolkit.history import History
from prompt_toolkit.input import Input
from prompt_toolkit.output import Output
from prompt_toolkit.styles import Style
from rich.cells import cell_len
from rich.console import Console
from rich.text import Text

from glm_core.cleaning import clean_text
from glm_core.conversation import Turn

from . import _clipboard
from ._answering import AnswerReader
from ._live import AnswerPainter
from ._markdown import MarkdownRenderer
from ._pasting import ExpandingHistory, Pastes
from ._prompt import CommandCompleter, PromptKeys, open_history
from ._texts import Texts
from ._view import STATUS_SEPARATOR, PlainView, TypedLine, View

_STYLE = Style.from_dict(
    {
        "prompt": "bold ansigreen",
        "bottom-toolbar": "noreverse ansibrightblack",
        "bottom-toolbar.hint": "noreverse bold",
        "placeholder": "ansibrightblack",
    }
)
_SPINNER, _PLAIN_SPINNER = "⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏", "|/-\\"
_SPINNER_STEPS_PER_SECOND = 8


class TerminalView:
    """Shows a chat on a terminal.

    Args:
        console: where to; its width and colours are used.
        adapters: names to complete, asked for at every completion.
        history: what was typed before.
        say: the texts.
        input, output: the terminal for the input line; default = the process's own.
    """

    can_prefill = True

    def __init__(
        self,
        console: Console,
        adapters: Callable[[], tuple[str, ...]],
        history: History,
        say: Texts,
        *,
        input: Input | None = None,
        output: Output | None = None,
    ) -> None:
        self._console = console
        self._say = say
        self._renderer = MarkdownRenderer(console)
        self._pastes = Pastes(say)
        self._keys = PromptKeys(self._pastes)
        self._status = ""
        self._mark = _choose_encodable("❯", console.encoding, ">")
        self._spinner = _choose_encodable(_SPINNER, console.encoding, _PLAIN_SPINNER)
        self._prompt: PromptSession[str] = PromptSession(
            message=[("class:prompt", f"{self._mark} ")],
            multiline=True,
            prompt_continuation="  ",
            completer=CommandCompleter(adapters, say),
            complete_while_typing=True,
            reserve_space_for_menu=6,
            history=ExpandingHistory(history, self._pastes),
            placeholder=self._make_placeholder,
            enable_suspend=True,
            enable_open_in_editor=True,
            tempfile_suffix=".md",
            key_bindings=self._keys.bindings,
            bottom_toolbar=self._make_toolbar,
            style=_STYLE,
            input=input,
            output=output,
        )
        self._prompt.default_buffer.on_text_changed += self._handle_typing
        self._prompt.search_buffer.on_text_changed += self._handle_typing

    def read(self, prefill: str, status: str) -> TypedLine | None:
        """Read one edited line or several; ``None`` after Ctrl-D or two Ctrl-C."""
        self._status = status
        self._keys.start()
        try:
            text = self._prompt.prompt(default=prefill)
        except EOFError:
            return None
        return TypedLine(self._pastes.expand(text), from_prefill=bool(prefill) and not self._keys.cleared)

    def show(self, text: str) -> None:
        """Show what a command was asked for."""
        self._print(text, "")

    def show_notice(self, text: str) -> None:
        """Show a remark, faintly."""
        self._print(text, "dim")

    def show_error(self, text: str) -> None:
        """Show what went wrong, in red."""
        self._print(text, "red")

    def show_turns(self, turns: Sequence[Turn]) -> None:
        """Show questions as they were typed and answers as Markdown."""
        for turn in turns:
            self._print(f"{self._mark} {turn.question}", "bold")
            self._console.line()
            for line in self._renderer.render_document(turn.answer, self._measure_size()[0] - 1):
                self._console.print(line, soft_wrap=True)
            self._console.line()

    def show_answer(self, reader: AnswerReader) -> None:
        """Paint an answer as it comes."""
        self._console.line()
        progress = reader.progress

        def describe_progress(empty: bool) -> str:
            seconds = progress.elapsed_seconds
            if reader.is_stopping:
                text = self._say("stopping")
            elif progress.queue_position:
                text = self._say("waiting", count=progress.queue_position, seconds=seconds)
            elif empty:
                text = self._say("thinking", seconds=seconds)
            else:
                speed = progress.usage.tokens_per_second
                text = self._say("answering", count=progress.num_tokens, speed=speed)
            step = int(seconds * _SPINNER_STEPS_PER_SECOND)
            return f"{self._spinner[step % len(self._spinner)]} {text}"

        painter = AnswerPainter(
            self._console, self._renderer, self._write, self._measure_size, describe_progress
        )
        with _hide_keys():
            try:
                for piece in reader.read_pieces():
                    painter.feed(piece)
            finally:
                painter.finish()
                if not painter.empty:
                    self._console.line()

    def clear(self) -> None:
        """Empty the screen."""
        self._console.clear()

    def copy(self, text: str) -> bool:
        """Copy by a program of this machine, or else by asking the terminal, which does not answer."""
        return _clipboard.copy(text, self._write)

    def _print(self, text: str, style: str) -> None:
        self._console.print(Text(clean_text(text), style=style))

    def _write(self, text: str) -> None:
        self._console.file.write(text)
        self._console.file.flush()

    def _measure_size(self) -> tuple[int, int]:
        try:  # the terminal itself: COLUMNS may be exported and stale
            size = os.get_terminal_size(self._console.file.fileno())
        except (OSError, ValueError):
            return self._console.width, self._console.height
        return size.columns or 80, size.lines or 24

    def _make_placeholder(self) -> StyleAndTextTuples:
        """Return what an empty line shows; nothing in the scrollback, nor while the history is searched."""
        if get_app().is_done or is_searching():
            return []
        return [("class:placeholder", self._say("placeholder"))]

    def _make_toolbar(self) -> StyleAndTextTuples:
        if self._keys.about_to_quit:
            return [("class:bottom-toolbar.hint", self._say("quit_hint"))]
        return [("", _fit_status(self._status, get_app().output.get_size().columns))]

    def _handle_typing(self, buffer: Buffer) -> None:
        if buffer.text:
            self._keys.about_to_quit = False


def open_terminal(adapters: Callable[[], tuple[str, ...]], say: Texts, *, keep_history: bool) -> View:
    """Open the process's own terminal; a console that cannot move its cursor gets the plain view."""
    console = Console(highlight=False, markup=False, emoji=False)
    if console.legacy_windows:
        return PlainView()
    reconfigure = getattr(sys.stdout, "reconfigure", None)
    if reconfigure:
        reconfigure(errors="replace")

    def show_notice(text: str) -> None:
        console.print(Text(text, style="dim"))

    return TerminalView(console, adapters, open_history(say, show_notice, keep=keep_history), say)


@contextmanager
def _hide_keys() -> Iterator[None]:
    """Keep what is typed during an answer out of it; it waits for the next input line."""
    try:
        import termios

        descriptor = sys.stdin.fileno()
        before: Any = termios.tcgetattr(descriptor)
    except (ImportError, OSError, ValueError, AttributeError):  # Windows, or no terminal
        yield
        return
    except termios.error:
        yield
        return
    unseen = list(before)
    # Keys are kept as they were pressed: line by line, Enter would arrive as Ctrl-J.
    unseen[0] &= ~termios.ICRNL
    unseen[3] &= ~(termios.ECHO | termios.ICANON)
    termios.tcsetattr(descriptor, termios.TCSANOW, unseen)
    try:
        yield
    finally:
        termios.tcsetattr(descriptor, termios.TCSANOW, before)


def _fit_status(status: str, columns: int) -> str:
    """Return as many parts of the status as one line has room for, at least the first."""
    parts = status.split(STATUS_SEPARATOR)
    while len(parts) > 1 and cell_len(STATUS_SEPARATOR.join(parts)) > columns:
        parts.pop()
    return STATUS_SEPARATOR.join(parts)


def _choose_encodable(text: str, encoding: str, instead: str) -> str:
    try:
        text.encode(encoding)
    except (UnicodeEncodeError, LookupError):
        return instead
    return text
