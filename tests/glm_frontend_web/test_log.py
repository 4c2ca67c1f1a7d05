"""The conversation as HTML."""

from __future__ import annotations

import copy
import time

from glm_frontend_web._bounded_rules import MAX_LINES, MAX_MARKDOWN
from glm_frontend_web._log import MAX_LOG_MARKDOWN, ConversationLog
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


def test_only_the_newest_answers_of_a_very_long_conversation_are_rendered() -> None:
    """Earlier ones stand there as they are, with a note; while an answer grows as well."""
    long = Turn("q", ("**x** " * 100 + "\n\n") * (MAX_MARKDOWN // 602))
    turns = [long] * (MAX_LOG_MARKDOWN // len(long.answer) + 2)
    log = ConversationLog(SAY["en"], demo=False)
    for pieces in (log.render(turns), log.render_growing(turns, "q", "**y**")):
        assert "earlier answer is shown as plain text" in pieces[0]
        assert "**x**" in pieces[0]
        assert "<strong>x</strong>" in pieces[len(turns) - 1]
        assert "earlier answer" not in pieces[len(turns) - 1]


def test_a_conversation_made_to_be_rendered_for_minutes_costs_seconds() -> None:
    """Three megabytes of tables of one cell; the room is ten times what a slow machine takes."""
    turns = [Turn("q", "a|b\n-|-\n" * 12_000)] * 30
    turns = [Turn("q", f"{index}\n{turn.answer}") for index, turn in enumerate(turns)]
    before = time.process_time()
    ConversationLog(SAY["en"], demo=False).render(turns)
    assert time.process_time() - before < 20


def test_an_answer_of_very_many_lines_is_rendered_in_part() -> None:
    """However lines end, those beyond the limit stand there as they are."""
    for end in ("\n", "\r\n", "\r"):
        (html,) = ConversationLog(SAY["en"], demo=False).render([Turn("q", f"# a{end}" * (MAX_LINES + 7))])
        assert html.count("<h1>a</h1>") == MAX_LINES
        assert "shown as plain text" in html


def test_a_turn_that_moves_is_not_rendered_again() -> None:
    """Deleting a turn changes the numbers of all that follow, but no answer."""
    log = ConversationLog(SAY["en"], demo=False)
    rendered: list[str] = []
    render = log._markdown
    log._markdown = lambda text: rendered.append(text) or render(text)  # type: ignore[assignment,func-returns-value]
    log.render([Turn("q", "one"), Turn("q", "two")])
    log.render([Turn("q", "two")])
    assert rendered == ["one", "two"]
