"""Marks that stand for long pasted text."""

from __future__ import annotations

from typing import Any

import pytest
from glm_frontend_cli._pasting import MAX_CHARACTERS, MAX_LINES, ExpandingHistory, Pastes
from glm_frontend_cli._texts import Texts
from prompt_toolkit.history import InMemoryHistory

LONG = "line\n" * (MAX_LINES + 1)


@pytest.mark.parametrize("text", ["word", "line\n" * MAX_LINES, "x" * MAX_CHARACTERS])
def test_short_text_stays_as_it_is(say: Texts, text: str) -> None:
    """What the screen has room for is shown."""
    assert Pastes(say).shorten(text) == text


@pytest.mark.parametrize(
    ("text", "mark"), [(LONG, "[paste 1: 13 lines]"), ("x" * (MAX_CHARACTERS + 1), "[paste 1: 1 lines]")]
)
def test_long_text_becomes_a_mark_and_back(say: Texts, text: Any, mark: str) -> None:
    """Many lines, or a line of many characters, are one mark until they are sent."""
    pastes = Pastes(say)
    assert pastes.shorten(text) == mark
    assert pastes.expand(f"before {mark} after") == f"before {text} after"


def test_pasted_text_is_not_searched_for_marks(say: Texts) -> None:
    """Text that happens to look like another mark is sent as it is."""
    pastes = Pastes(say)
    first = LONG + "[paste 2: 13 lines]"
    marks = pastes.shorten(first), pastes.shorten(LONG)
    assert pastes.expand("".join(marks)) == first + LONG


def test_history_file_holds_the_text_and_the_session_the_mark(say: Texts) -> None:
    """The up key brings back a short line; a later session gets what was pasted."""
    pastes, kept = Pastes(say), InMemoryHistory(["earlier"])
    history = ExpandingHistory(kept, pastes)
    mark = pastes.shorten(LONG)
    history.append_string(f"see {mark}")
    assert history.get_strings() == [f"see {mark}"]
    assert list(kept.load_history_strings()) == [f"see {LONG}", "earlier"]
    assert list(ExpandingHistory(kept, Pastes(say)).load_history_strings()) == [f"see {LONG}", "earlier"]
