"""Rendering Markdown."""

from __future__ import annotations

import io
from typing import Any

import pytest
from glm_frontend_cli._live import to_lines
from glm_frontend_cli._markdown import MarkdownRenderer
from rich.console import Console


def rendered(source: Any, width: int = 40) -> list[str]:
    """Lines as plain text."""
    renderer = MarkdownRenderer(Console(file=io.StringIO(), width=width))
    return [line.plain for line in renderer.render_document(source, width)]


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("# 标题\ntext", ["标题", "", "text"]),
        ("白日依山尽\n黄河入海流", ["白日依山尽", "黄河入海流"]),
        ("a **b** *c* ~~d~~ `e`", ["a b c d e"]),
        ("- a\n  - b\n    more\n- c", ["• a", "  • b", "    more", "• c"]),
        ("9. a\n10. b", ["9. a", "10. b"]),
        ("> q\n>\n> r", ["▌ q", "▌", "▌ r"]),
        ("a\n\n---\n\nb", ["a", "", "─" * 40, "", "b"]),
        ("```\nx\n\n  y\n```", ["  x", "", "    y"]),
        ("```go\n\tx\n```", ["      x"]),
        ("- a\n  ```\n  x\n  ```", ["• a", "", "    x"]),
        ("[t](http://u)", ["t (http://u)"]),
        ("<http://u>", ["http://u"]),
        ("![pic](http://u/p.png)", ["pic (http://u/p.png)"]),
        ("", []),
    ],
)
def test_markdown_becomes_lines(source: str, expected: list[str]) -> None:
    """Each construct has its look."""
    assert [line.rstrip() for line in rendered(source)] == expected


def test_html_is_shown_as_text() -> None:
    """Tags that a model writes do not vanish."""
    assert rendered("<div>x</div>\n\na <b>b</b>") == ["<div>x</div>", "", "a <b>b</b>"]


def test_rich_markup_is_not_interpreted() -> None:
    """Square brackets are just brackets."""
    assert rendered("[red]x[/red] [link=http://u]y[/link]") == ["[red]x[/red] [link=http://u]y[/link]"]


def test_tables_align_and_fit() -> None:
    """Columns line up, also with Chinese."""
    assert rendered("| 名 | n |\n|--|--:|\n| 甲乙 | 1 |\n| x | 22 |") == [
        "名      n",
        "─────────",
        "甲乙    1",
        "x      22",
    ]


def test_decoded_entities_cannot_smuggle_control_characters() -> None:
    """What Markdown decodes is cleaned as well."""
    text = "\n".join(rendered("a &#x202e; b &#27;[31m &#155; `&#27;`"))
    assert not any(character in text for character in "\x1b\x9b\u202e")


def test_no_terminal_hyperlinks_are_made() -> None:
    """Where a link leads can be read; nothing hides behind its text."""
    console = Console(file=io.StringIO(), width=60, force_terminal=True, color_system="truecolor")
    lines = MarkdownRenderer(console).render_document("[a](http://u) <http://v> ![i](http://w)", 59)
    written = "".join(line.ansi for line in to_lines(console, lines))
    assert "\x1b]8" not in written
    assert "\x1b[" in written


def test_code_is_highlighted_without_padding() -> None:
    """Colours, but no spaces at line ends that one would copy."""
    console = Console(file=io.StringIO(), width=40, force_terminal=True, color_system="standard")
    (line,) = to_lines(console, MarkdownRenderer(console).render_document("```python\nreturn 1\n```", 39))
    assert line.cells == len("  return 1")
    assert line.ansi != "  return 1"


def test_no_color_is_respected() -> None:
    """With NO_COLOR nothing is coloured; bold remains."""
    console = Console(
        file=io.StringIO(), width=40, force_terminal=True, _environ={"NO_COLOR": "1", "TERM": "xterm"}
    )
    lines = to_lines(
        console, MarkdownRenderer(console).render_document("# t\n\n```python\nreturn 1\n```", 39)
    )
    assert [line.ansi for line in lines] == ["\x1b[1mt\x1b[0m", "", "  return 1"]


@pytest.mark.parametrize("language", ["python", "nosuchlanguage", "html", "bash", "json", ""])
def test_code_lines_match_the_source(language: str) -> None:
    """Whatever the lexer does, each source line is shown exactly once."""
    code = "\n\nfirst\n\n   third = '''\nfourth\n\n"
    shown = rendered(f"```{language}\n{code}```")
    assert [line.strip() for line in shown] == [line.strip() for line in code.split("\n")[:-1]]


@pytest.mark.parametrize("width", [1, 2, 5])
def test_absurdly_narrow_screens_do_not_crash(width: int) -> None:
    """Every construct survives a screen of no use."""
    source = "# 标题\n\n- 一二三\n  - b\n    - c\n\n> q\n\n```\ncode\n```\n\n---\n"
    source += "\n| a | b |\n|--|--|\n| 长长长 | 2 |"
    assert rendered(source, width)
