"""Painting an answer as it grows.

What cannot change any more is printed once and belongs to the terminal's scrollback; only the
rest, which is kept lower than the screen, is painted over. So nothing is ever left twice above.
A frame goes out in one write, changes only lines that differ, and is marked as one update.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from rich.console import Console
from rich.text import Text

from ._blocks import Block, BlockStream
from ._markdown import MarkdownRenderer

Size = Callable[[], tuple[int, int]]
"""Columns and rows of the terminal now."""

MIN_FRAME_SECONDS = 1 / 15
# Few enough to survive a terminal that is made smaller, enough for most comments: a lexer knows
# a comment of several lines for one only when it has seen its end.
MAX_LIVE_CODE_LINES = 8
MIN_ROWS_FOR_GAP = 12
_BEGIN, _END = "\x1b[?2026h", "\x1b[?2026l"  # synchronised update; terminals that know it not ignore it
_HIDE_CURSOR, _SHOW_CURSOR = "\x1b[?25l", "\x1b[?25h"
_ERASE_LINE, _ERASE_BELOW = "\x1b[K", "\x1b[J"


@dataclass(frozen=True)
class ScreenLine:
    """A line ready to write, and how many cells it takes."""

    ansi: str
    cells: int


def to_lines(console: Console, texts: Sequence[Text]) -> list[ScreenLine]:
    """Return styled text in the console's colours; each text must be one line."""
    if not texts:
        return []
    with console.capture() as capture:
        for text in texts:
            console.print(text, soft_wrap=True)
    written = capture.get().split("\n")
    return [ScreenLine(ansi, text.cell_len) for ansi, text in zip(written, texts, strict=False)]


class LiveArea:
    """The last lines on the screen, from where the cursor was when it was made."""

    def __init__(self, write: Callable[[str], object], size: Size) -> None:
        self._write = write
        self._size = size
        self._shown: list[ScreenLine] = [ScreenLine("", 0)]
        self._columns = size()[0]

    def draw(self, permanent: Sequence[ScreenLine], live: Sequence[ScreenLine]) -> None:
        """Print ``permanent`` for good, and ``live`` below it in place of what was live."""
        columns, rows = self._size()
        shown = list(live[-max(rows - 1, 1) :]) or [ScreenLine("", 0)]
        lines = [*permanent, *shown]
        if columns == self._columns:
            same = _count_common(self._shown[:-1], lines[:-1])
            up = len(self._shown) - 1 - same
            erase = ""
        else:  # the terminal has broken the old lines anew; erase them, lest it joins ours again later
            same = 0
            up = min(sum(max(1, -(-line.cells // columns)) for line in self._shown), rows) - 1
            erase = _ERASE_BELOW
        body = "\r\n".join(line.ansi + _ERASE_LINE for line in lines[same:])
        if lines != self._shown or columns != self._columns:
            move = f"\x1b[{up}A" if up else ""
            self._write(f"{_BEGIN}{_HIDE_CURSOR}\r{move}{erase}{body}{_ERASE_BELOW}{_SHOW_CURSOR}{_END}")
        self._shown, self._columns = shown, columns


def _count_common(old: Sequence[ScreenLine], new: Sequence[ScreenLine]) -> int:
    count = 0
    for before, after in zip(old, new, strict=False):
        if before != after:
            break
        count += 1
    return count


class AnswerPainter:
    """Shows one answer: feed it text, which paints it, and finish it.

    Attributes:
        empty: whether nothing but space has come.

    Args:
        console: for its colours.
        renderer: makes lines of Markdown.
        write: writes to the terminal at once.
        size: of the terminal.
        note: returns what to say below the text, or nothing; called with whether there is no text yet.
            It is cut to one line.
    """

    def __init__(
        self,
        console: Console,
        renderer: MarkdownRenderer,
        write: Callable[[str], object],
        size: Size,
        note: Callable[[bool], str],
    ) -> None:
        self._console = console
        self._renderer = renderer
        self._size = size
        self._note = note
        self._area = LiveArea(write, size)
        self._blocks = BlockStream()
        self._printed_code_lines = 0  # of the first open block, if that is a code block
        self._next_frame = 0.0
        self.empty = True

    def feed(self, text: str) -> None:
        """Append ``text`` and paint, unless that was done a moment ago."""
        self._blocks.feed(text)
        self.empty = self.empty and not text.strip()
        now = time.monotonic()
        if now < self._next_frame:
            return
        self._paint()
        cost = time.monotonic() - now
        self._next_frame = now + max(MIN_FRAME_SECONDS, 4 * cost)  # long code costs; leave time to the model

    def finish(self) -> None:
        """Print everything for good and leave the cursor on a fresh line."""
        width = self._measure_width()
        finished = self._take_finished(width, final=True)
        self._area.draw(to_lines(self._console, finished), [])

    def _paint(self) -> None:
        width = self._measure_width()
        permanent = self._take_finished(width)
        live: list[Text] = []
        for index, block in enumerate(self._blocks.parse_open_blocks()):
            if index == 0 and block.node.type == "fence":
                scrolled, rest = self._split_code(block, width)
                permanent += scrolled
                live += rest
            else:
                live += self._renderer.render_block(block, width)
        note = self._note(self.empty)
        if note:
            line = Text(note, style="dim")
            line.truncate(width, overflow="ellipsis")
            live = [line] if self.empty else [*live, *self._make_gap_above_note(), line]
        self._area.draw(to_lines(self._console, permanent), to_lines(self._console, live))

    def _make_gap_above_note(self) -> list[Text]:
        """Return the empty line between text and note; none where the screen has few lines."""
        return [Text()] if self._size()[1] >= MIN_ROWS_FOR_GAP else []

    def _take_finished(self, width: int, *, final: bool = False) -> list[Text]:
        lines: list[Text] = []
        for block in self._blocks.take_finished(final=final):
            if self._printed_code_lines and block.node.type == "fence":
                rows = self._renderer.render_code(block.node, width)[self._printed_code_lines :]
                lines += [line for row in rows for line in row]
            else:
                lines += self._renderer.render_block(block, width)
            self._printed_code_lines = 0
        return lines

    def _split_code(self, block: Block, width: int) -> tuple[list[Text], list[Text]]:
        """Split a code block into lines to print for good and lines to paint again.

        The block may outgrow the screen; its upper lines do not change any more.
        """
        rows = self._renderer.render_code(block.node, width)
        gap = [Text()] if block.gap and not self._printed_code_lines else []
        room = max(min(self._size()[1] - 2, MAX_LIVE_CODE_LINES), 1)
        remaining = rows[self._printed_code_lines :]
        scrolled: list[Text] = []
        while len(remaining) > 1 and sum(map(len, remaining)) > room:
            scrolled += remaining.pop(0)
            self._printed_code_lines += 1
        rest = [line for row in remaining for line in row]
        return ([*gap, *scrolled], rest) if scrolled else ([], [*gap, *rest])

    def _measure_width(self) -> int:
        # The last column stays free, because terminals differ in when they wrap after writing it.
        return max(self._size()[0] - 1, 10)
