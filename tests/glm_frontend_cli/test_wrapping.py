"""Breaking lines of mixed text."""

from __future__ import annotations

from typing import Any

import pytest
from glm_frontend_cli._wrapping import wrap
from hypothesis import given, strategies as st
from rich.text import Text


def lines(text: Any, width: Any) -> list[str]:
    """Wrapped lines as plain text."""
    return [line.plain for line in wrap(Text(text), width)]


@pytest.mark.parametrize(
    ("text", "width", "expected"),
    [
        ("hello big world", 9, ["hello big", "world"]),
        ("使用 Python 编写程序", 12, ["使用 Python", "编写程序"]),
        ("使用 Python 编写程序", 14, ["使用 Python 编", "写程序"]),
        ("一二三四，五", 8, ["一二三", "四，五"]),
        ("一二三（四）", 8, ["一二三", "（四）"]),
        ("a\n\nb", 5, ["a", "", "b"]),
        ("abcdefghij", 4, ["abcd", "efgh", "ij"]),
        ("一二三", 3, ["一", "二", "三"]),
        ("", 5, [""]),
        ("    indented code", 12, ["    indented", "code"]),
    ],
)
def test_lines_break_where_readers_expect(text: str, width: int, expected: list[str]) -> None:
    """At spaces, between wide characters, never before closing or after opening punctuation."""
    assert lines(text, width) == expected


def test_wrapping_keeps_styles() -> None:
    """Styled words stay styled on their new line."""
    text = Text("plain ")
    text.append("粗体文字", "bold")
    second = wrap(text, 6)[1]
    assert second.plain == "粗体文"
    assert second.spans


@given(st.text(alphabet="ab 中文，。（）“”\n👍é", max_size=60), st.integers(2, 20))
def test_wrapping_loses_nothing_but_spaces(text: Any, width: Any) -> None:
    """Every character that is not space survives, and no line is too wide."""
    wrapped = wrap(Text(text), width)
    assert "".join("".join(line.plain.split()) for line in wrapped) == "".join(text.split())
    assert all(line.cell_len <= width for line in wrapped)
