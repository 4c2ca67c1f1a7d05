"""Painting an answer on an emulated terminal."""

from __future__ import annotations

import io
from typing import Any

import pyte
import pytest
from glm_frontend_cli._live import AnswerPainter
from glm_frontend_cli._markdown import MarkdownRenderer
from hypothesis import given, settings, strategies as st
from rich.console import Console

LONG = "\n".join(
    [
        "# 标题",
        "",
        "第一段，" + "很长的文字" * 30,
        "",
        "```python",
        *(f"line_{number} = compute({number})  # 注释" for number in range(40)),
        "```",
        "",
        *(f"{number}. 第 {number} 项" for number in range(1, 31)),
        "",
        "| a | b |",
        "| - | - |",
        *(f"| row {number} | {number} |" for number in range(30)),
        "",
        "end",
    ]
)


class Terminal:
    """A screen with all of its scrollback."""

    def __init__(self, columns: Any, rows: Any) -> None:
        self.screen = pyte.HistoryScreen(columns, rows, history=10_000, ratio=0.5)
        self.stream = pyte.Stream(self.screen)

    def write(self, text: Any) -> None:
        """What a program prints."""
        self.stream.feed(text)

    def size(self) -> tuple[int, int]:
        """Columns and rows."""
        return self.screen.columns, self.screen.lines

    def lines(self) -> list[str]:
        """Everything from the first line printed to the cursor."""
        above = [
            "".join(row[column].data for column in range(self.screen.columns))
            for row in self.screen.history.top
        ]
        here = self.screen.display[: self.screen.cursor.y]
        return [line.rstrip() for line in [*above, *here]]


def painted(terminal: Any, source: Any, step: Any) -> list[str]:
    """Feed ``source`` in pieces and paint at each of them."""
    console = Console(
        file=io.StringIO(), width=terminal.size()[0], force_terminal=True, color_system="standard"
    )
    renderer = MarkdownRenderer(console)
    painter = AnswerPainter(
        console, renderer, terminal.write, terminal.size, lambda empty: "…" if empty else ""
    )
    for start in range(0, len(source), step):
        painter._next_frame = 0.0  # every piece is a frame
        painter.feed(source[start : start + step])
    painter.finish()
    return [line.plain.rstrip() for line in renderer.render_document(source, terminal.size()[0] - 1)]


@pytest.mark.parametrize(("columns", "rows"), [(80, 24), (40, 10), (30, 3)])
def test_long_answer_stands_in_the_scrollback_once(columns: int, rows: int) -> None:
    """However small the screen, every line is there exactly once and in order."""
    terminal = Terminal(columns, rows)
    expected = painted(terminal, LONG, 7)
    assert len(expected) > rows
    assert [squeezed(line) for line in terminal.lines()] == [squeezed(line) for line in expected]


def squeezed(line: Any) -> str:
    """Without the empty cell that pyte puts after a wide character."""
    return line.replace(" ", "")


@settings(deadline=None, max_examples=60)
@given(
    st.lists(
        st.sampled_from(
            ["", "- a", "1. b", "```", "x = 1", "# h", "para " * 12, "| a | b |", "| - | - |", "> q"]
        ),
        max_size=25,
    ).map("\n".join),
    st.integers(1, 9),
    st.integers(2, 8),
)
def test_any_answer_stands_on_the_screen_once(source: Any, step: Any, rows: Any) -> None:
    """No Markdown makes the painter leave a line twice or lose one."""
    terminal = Terminal(30, rows)
    expected = painted(terminal, source, step)
    assert [squeezed(line) for line in terminal.lines()] == [squeezed(line) for line in expected]


def test_note_is_painted_until_text_comes() -> None:
    """While the model thinks, the screen says so; afterwards no trace is left."""
    terminal = Terminal(40, 10)
    console = Console(file=io.StringIO(), width=40, force_terminal=True, color_system=None)
    painter = AnswerPainter(
        console,
        MarkdownRenderer(console),
        terminal.write,
        terminal.size,
        lambda empty: "thinking" if empty else "",
    )
    painter.feed("")
    assert terminal.screen.display[0].rstrip() == "thinking"
    painter._next_frame = 0.0
    painter.feed("answer")
    assert terminal.screen.display[0].rstrip() == "answer"
    painter.finish()
    assert terminal.lines() == ["answer"]
    assert not painter.empty


def test_unchanged_frame_writes_nothing() -> None:
    """Waiting costs no output."""
    written: list[str] = []
    console = Console(file=io.StringIO(), width=40, force_terminal=True)
    painter = AnswerPainter(
        console, MarkdownRenderer(console), written.append, lambda: (40, 10), lambda empty: ""
    )
    painter.feed("text")
    count = len(written)
    painter._next_frame = 0.0
    painter.feed("")
    assert len(written) == count == 1


def test_resize_in_the_middle_repaints_what_is_live() -> None:
    """After the terminal got narrower or wider, the live lines are painted anew at the new width."""
    terminal = Terminal(60, 12)
    console = Console(file=io.StringIO(), width=60, force_terminal=True, color_system=None)
    renderer = MarkdownRenderer(console)
    painter = AnswerPainter(console, renderer, terminal.write, terminal.size, lambda empty: "")
    painter.feed("one two three four five six seven")
    terminal.screen.resize(12, 80)
    painter._next_frame = 0.0
    painter.feed(" eight nine ten eleven twelve thirteen fourteen")
    painter.finish()
    assert terminal.lines() == [
        "one two three four five six seven eight nine ten eleven twelve thirteen",
        "fourteen",
    ]


def test_note_takes_one_line_on_a_narrow_terminal() -> None:
    """A note that would wrap is cut, so that painting over it leaves nothing behind."""
    terminal = Terminal(20, 10)
    console = Console(file=io.StringIO(), width=20, force_terminal=True, color_system=None)
    painter = AnswerPainter(
        console, MarkdownRenderer(console), terminal.write, terminal.size, lambda empty: "字" * 30
    )
    painter.feed("")
    assert terminal.screen.display[0].replace(" ", "") == "字" * 9 + "…"
    assert not terminal.screen.display[1].strip()
    painter._next_frame = 0.0
    painter.feed("answer")
    painter.finish()
    assert terminal.lines() == ["answer"]


@pytest.mark.parametrize(("rows", "shown"), [(12, ["text", "", "note"]), (11, ["text", "note"])])
def test_note_below_text_keeps_its_distance_where_there_is_room(rows: int, shown: list[str]) -> None:
    """Below text the note stands apart, unless the screen is low."""
    terminal = Terminal(20, rows)
    console = Console(file=io.StringIO(), width=20, force_terminal=True, color_system=None)
    painter = AnswerPainter(
        console, MarkdownRenderer(console), terminal.write, terminal.size, lambda empty: "note"
    )
    painter.feed("text")
    assert [line.rstrip() for line in terminal.screen.display[: len(shown)]] == shown
    painter.finish()
    assert terminal.lines() == ["text"]
