"""Making text safe to show."""

from __future__ import annotations

import pytest

from glm_core.cleaning import clean_text, has_costly_markup


@pytest.mark.parametrize(
    ("dirty", "safe"),
    [
        ("\x1b[31mred\x1b[0m", "[31mred[0m"),
        ("\x1b]0;title\x07", "]0;title"),
        ("\x9b2J", "2J"),
        ("a\r\nb\rc", "a\nbc"),
        ("a\x00\x08\x0b\x0c\x7fb", "ab"),
        ("abc\u202edef\u2066", "abcdef"),
        ("\ud800x", "x"),
        ("a\u2028b", "ab"),
    ],
)
def test_control_characters_are_removed(dirty: str, safe: str) -> None:
    """What a terminal would obey is taken out; what it would show stays."""
    assert clean_text(dirty) == safe


def test_ordinary_text_is_untouched() -> None:
    """Chinese, emoji, tabs, newlines and joiners stay as they are."""
    text = "你好，世界！\n\tcode 👩‍💻 ½ é"
    assert clean_text(text) == text


def test_markup_is_costly_only_where_much_of_it_stands_in_a_long_paragraph() -> None:
    """Long prose and a short dense formula are parsed; thousands of brackets in one paragraph are not."""
    assert not has_costly_markup("plain words, and no markup; " * 10_000)
    assert not has_costly_markup("**a** `b` " * 300)
    for sign in ("[", r"\(", "*", "$", "`", "<", "_"):
        assert has_costly_markup(sign * 10_000)
