"""Colours for dark and light backgrounds."""

from __future__ import annotations

from glm_frontend_cli._colours import CODE, MARKDOWN

READABLE = {None, "magenta", "cyan", "green", "red"}


def test_no_colour_vanishes_on_a_dark_or_a_light_background() -> None:
    """Only colours of middling brightness are used, for code and for text."""
    styles = [*CODE.style_map.values(), *MARKDOWN.values()]
    assert len(styles) > 20
    assert {style.color.name if style.color else None for style in styles} == READABLE
    assert all(style.bgcolor is None for style in styles)
