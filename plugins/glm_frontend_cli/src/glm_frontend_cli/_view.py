"""What the session asks of a screen, and the plain one: lines in, text out."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, TextIO

from glm_core import GlmError
from glm_core.conversation import Turn

from ._answering import AnswerReader

STATUS_SEPARATOR = " · "
"""Between the parts of the status line, the least important of which comes last."""


@dataclass(frozen=True)
class TypedLine:
    """What the user typed.

    Attributes:
        text: one line or several.
        from_prefill: whether it came of the text that was put into the input line.
    """

    text: str
    from_prefill: bool = False


class View(Protocol):
    """A screen, or a pair of pipes."""

    can_prefill: bool
    """Whether a person edits lines here, so that `read` can put text into the input line."""

    def read(self, prefill: str, status: str) -> TypedLine | None:
        """Return what the user types next; ``None`` when there is no more."""

    def show(self, text: str) -> None:
        """Show what a command was asked for."""

    def show_notice(self, text: str) -> None:
        """Show a remark."""

    def show_error(self, text: str) -> None:
        """Show what went wrong."""

    def show_turns(self, turns: Sequence[Turn]) -> None:
        """Show a conversation."""

    def show_answer(self, reader: AnswerReader) -> None:
        """Show an answer as it comes."""

    def clear(self) -> None:
        """Empty the screen."""

    def copy(self, text: str) -> bool | None:
        """Copy to the clipboard; return whether that surely worked, ``None`` where there is no way to."""


class PlainView:
    """Questions from a text stream, answers to another; everything else to a third.

    Args:
        stdin: one question a line.
        stdout: answers and nothing else.
        stderr: notices, errors, and what commands show.
    """

    can_prefill = False

    def __init__(
        self, stdin: TextIO | None = None, stdout: TextIO | None = None, stderr: TextIO | None = None
    ) -> None:
        self._stdin = _replace_unencodable(stdin or sys.stdin)
        self._stdout = _replace_unencodable(stdout or sys.stdout)
        self._stderr = _replace_unencodable(stderr or sys.stderr)
        self._interactive = self._stdin.isatty()

    def read(self, prefill: str, status: str) -> TypedLine | None:
        """Return the next line; a person gets a prompt on stderr."""
        if self._interactive:
            self._stderr.write("> ")
            self._stderr.flush()
        line = self._stdin.readline()
        return TypedLine(line.removeprefix("\ufeff")) if line else None

    def show(self, text: str) -> None:
        """Write to stderr, so that stdout holds answers only."""
        self._stderr.write(f"{text}\n")
        self._stderr.flush()

    show_notice = show
    show_error = show

    def show_turns(self, turns: Sequence[Turn]) -> None:
        """Show questions after ``>``, each with its answer."""
        self.show("\n\n".join(f"> {turn.question}\n\n{turn.answer}" for turn in turns))

    def show_answer(self, reader: AnswerReader) -> None:
        """Write each piece at once.

        Raises:
            KeyboardInterrupt: Ctrl-C, where nobody is there to go on with the chat.
        """
        started = False
        try:
            for piece in reader.read_pieces():
                if piece:
                    self._stdout.write(piece)
                    self._stdout.flush()
                    started = True
        except GlmError:
            if started:
                self._end_line()
            raise
        self._end_line()
        if reader.progress.finish_reason is None and not self._interactive:
            raise KeyboardInterrupt

    def clear(self) -> None:
        """Do nothing, since there is no screen."""

    def copy(self, text: str) -> None:
        """Do nothing, since there is no terminal to ask."""

    def _end_line(self) -> None:
        self._stdout.write("\n")
        self._stdout.flush()


def _replace_unencodable(stream: TextIO) -> TextIO:
    """Make a stream replace what its encoding lacks, rather than fail in the middle of a chat."""
    reconfigure = getattr(stream, "reconfigure", None)
    if reconfigure:
        reconfigure(errors="replace")
    return stream
