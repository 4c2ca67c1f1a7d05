"""Cutting Markdown into blocks while it arrives."""

from __future__ import annotations

import io
from typing import Any

import pytest
from glm_frontend_cli._blocks import BlockStream, parse
from glm_frontend_cli._markdown import MarkdownRenderer
from hypothesis import given, settings, strategies as st
from processor_time import assert_in_proportion
from rich.console import Console

LINES = [
    *("", "", "- a", "- b **x**", "  - c", "1. one", "2. two", "3) three", "   cont", "```python", "```"),
    *("x = 1", "    ind", "# h", "> q", "para 段落", "| a | b |", "| - | - |", "---", "===", "* s", "[x](y)"),
    *(
        "![i](u)",
        "[![i](u)](v)",
        "<div>",
        "`c`",
        "    - deep",
        "\tcode",
        "~~~",
        "&#27;[31m",
        "  ",
        "a\\",
        "1. ```",
    ),
]


def types(blocks: Any) -> list[str]:
    """What kinds of blocks these are."""
    return [block.node.type for block in blocks]


def test_block_is_finished_when_another_has_begun() -> None:
    """Only then can no further text change it."""
    stream = BlockStream()
    stream.feed("# Title\n\npara")
    assert types(stream.take_finished()) == []
    assert types(stream.parse_open_blocks()) == ["heading", "paragraph"]
    stream.feed("graph\n\nnext")
    assert types(stream.take_finished()) == ["heading"]
    assert types(stream.parse_open_blocks()) == ["paragraph", "paragraph"]
    assert types(stream.take_finished(final=True)) == ["paragraph", "paragraph"]
    assert stream.parse_open_blocks() == []


def test_items_of_a_list_finish_one_by_one_and_keep_counting() -> None:
    """A long list does not stay open as a whole; all-ones lists count as Markdown says."""
    stream = BlockStream()
    stream.feed("1. a\n1. b\n1. c\n")
    finished = stream.take_finished()
    stream.feed("1. d\n")
    finished += stream.take_finished(final=True)
    assert [block.number for block in finished] == [1, 2, 3, 4]
    assert [block.gap for block in finished] == [False, False, False, False]


def test_loose_items_keep_their_empty_lines() -> None:
    """Items that the model set apart stay apart."""
    assert [block.gap for block in parse("text\n\n- a\n\n- b\n- c\n\nend")] == [
        False,
        True,
        True,
        False,
        True,
    ]


@settings(deadline=None, max_examples=200)
@given(st.lists(st.sampled_from(LINES), max_size=12).map("\n".join), st.integers(1, 7))
def test_streamed_markdown_renders_like_the_whole(source: Any, step: Any) -> None:
    """Whatever the pieces, the finished blocks show what the whole text would."""
    renderer = MarkdownRenderer(Console(file=io.StringIO(), width=40))
    stream, lines = BlockStream(), []
    for start in range(0, len(source), step):
        stream.feed(source[start : start + step])
        for block in stream.take_finished():
            lines += renderer.render_block(block, 39)
        for block in stream.parse_open_blocks():
            renderer.render_block(block, 39)
    for block in stream.take_finished(final=True):
        lines += renderer.render_block(block, 39)
    assert [line.plain for line in lines] == [line.plain for line in renderer.render_document(source, 39)]


@pytest.mark.parametrize("sign", [*"[*_`<!~&\\", "[a](", "![", "**", "a_"])
def test_parsing_takes_time_in_proportion_to_a_paragraph(sign: str) -> None:
    """Four times as many signs of markup take about four times as long, not sixteen times."""
    short, long = (sign * (length // len(sign)) for length in (50_000, 200_000))
    assert_in_proportion(lambda: parse(short), lambda: parse(long), factor=10, least=0.1)


def test_a_paragraph_with_too_much_markup_is_plain_text() -> None:
    """Line by line as it is; the paragraphs around it keep their looks."""
    heavy = "[**x" * 2500
    before, middle, after = parse(f"**a**\n\n{heavy}\n{heavy}\n\n**b**")
    assert [child.type for child in middle.node.children[0].children] == ["text", "softbreak", "text"]
    for block in (before, after):
        assert "strong" in [child.type for child in block.node.children[0].children]
