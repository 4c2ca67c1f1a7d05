"""The conversation as HTML."""

from __future__ import annotations

import copy

from glm_frontend_web._log import ConversationLog
from glm_frontend_web._texts import SAY

from glm_core.conversation import Turn

TURNS = [Turn("a <b>", "A **x**"), Turn("b", "")]


def test_each_turn_is_one_piece_with_its_actions() -> None:
    """Every turn can be copied, edited and deleted; only the last can be answered again."""
    first, last = ConversationLog(SAY["en"], demo=False).render(TURNS)
    assert "a &lt;b&gt;" in first
    assert "<strong>x</strong>" in first
    assert 'data-action="retry"' not in first
    assert 'data-action="retry" data-index="1"' in last
    for piece in (first, last):
        for action in ("edit", "delete", "copy"):
            assert f'data-action="{action}"' in piece
    assert "answer is empty" in last


def test_every_button_has_a_name_and_icons_are_silent() -> None:
    """Screen readers get a label for each button and skip the drawings."""
    html = "".join(ConversationLog(SAY["zh"], demo=False).render(TURNS))
    assert html.count("<button") == html.count("aria-label=") - html.count("<article") == 9
    assert html.count("<svg") == html.count('aria-hidden="true"') == 9


def test_an_answer_in_the_making_has_no_actions_and_is_marked_busy() -> None:
    """While an answer comes nothing can be done to it, and earlier turns stay as they are."""
    log = ConversationLog(SAY["en"], demo=False)
    pieces = log.render_growing(TURNS[:1], "now?", "so far")
    assert len(pieces) == 2
    assert 'aria-busy="true"' in pieces[-1]
    assert "so far" in pieces[-1]
    assert "<button" not in pieces[-1].partition("glm-answer")[2]
    assert "Thinking" in log.render_growing([], "now?", "")[0]
    assert log.render_growing(TURNS[:1], "now?", "so far and more")[0] == pieces[0]


def test_an_empty_conversation_welcomes_with_examples() -> None:
    """The welcome has four questions; the demo model says what it is."""
    (welcome,) = ConversationLog(SAY["en"], demo=False).render([])
    assert welcome.count('data-action="example_select"') == 4
    assert "demo model" not in welcome
    assert "demo model" in ConversationLog(SAY["en"], demo=True).render([])[0]


def test_a_copy_shares_nothing() -> None:
    """Gradio copies the session's first state for every visitor; the copies render for themselves."""
    log = ConversationLog(SAY["zh"], demo=True)
    twin = copy.deepcopy(log)
    assert twin is not log
    assert twin.render([]) == log.render([])
