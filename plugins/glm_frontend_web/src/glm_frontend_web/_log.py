"""The conversation as HTML, one piece a turn; everything that people or models wrote is escaped.

It is not gradio's Chatbot, which leaves TeX and diagrams of a model to its sanitiser in the browser.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from html import escape

from glm_core.conversation import Turn

from ._markdown import HtmlRenderer, render_plain
from ._texts import Texts

MAX_LOG_MARKDOWN = 300_000
"""Characters of a conversation's newest answers that are rendered; earlier ones are shown as they are."""
MAX_LOG_LINES = 15_000
"""Lines of those answers; a text of a stranger may have a list or a table in every line."""

# Rendering holds Python's lock, so that more windows at once would only slow down the loop that serves all.
_RENDERERS = threading.BoundedSemaphore(2)
_ICONS = {
    "copy": "M9 9h11v11H9z M15 9V4H4v11h5",
    "edit": "M4 20h4L19 9l-4-4L4 16z M13 7l4 4",
    "retry": "M19 12a7 7 0 1 1-2-5 M19 3v5h-5",
    "delete": "M5 7h14 M10 7V4h4v3 M7 7l1 13h8l1-13",
}


class ConversationLog:
    """Renders one visitor's conversation; turns that did not change are not rendered again.

    Args:
        say: the texts.
        demo: whether the demo model answers.
    """

    def __init__(self, say: Texts, *, demo: bool) -> None:
        self._say = say
        self._demo = demo
        self._markdown = HtmlRenderer(say)
        self._rendered: dict[tuple[int, Turn, bool, bool], str] = {}
        self._bodies: dict[str, str] = {}  # of answers; a turn may move, which changes all but its body

    def __deepcopy__(self, memo: object) -> ConversationLog:
        return ConversationLog(self._say, demo=self._demo)

    def render(self, turns: Sequence[Turn]) -> list[str]:
        """Return the whole log, while no answer comes."""
        if not turns:
            return [self.render_welcome()]
        last, first = len(turns) - 1, _find_first_rendered(turns)
        return self._render_turns([(i, turn, i == last, i >= first) for i, turn in enumerate(turns)])

    def render_growing(self, turns: Sequence[Turn], question: str, answer: str) -> list[str]:
        """Return the log while an answer comes: ``turns``, ``question``, and its answer so far."""
        first = _find_first_rendered([*turns, Turn(question, answer)])
        before = self._render_turns([(i, turn, False, i >= first) for i, turn in enumerate(turns)])
        dots = f'<p class="glm-dots" aria-label="{escape(self._say("thinking"))}" role="img">•••</p>'
        body = self._render_markdown(answer) if answer.strip() else dots
        return [
            *before,
            f'<div class="glm-turn">{self._render_question(question, "")}'
            f'<article class="glm-answer" aria-busy="true" aria-label="{escape(self._say("model"))}">'
            f'<div class="glm-markdown">{body}</div></article></div>',
        ]

    def render_welcome(self) -> str:
        """Return what is shown before anything has been said."""
        say = self._say
        note = f"<p>{escape(say('welcome_demo'))}</p>" if self._demo else ""
        buttons = "".join(
            f'<button type="button" data-action="example_select" data-index="{index}">{escape(text)}</button>'
            for index, text in enumerate(say.list_examples(demo=self._demo))
        )
        return (
            f'<div class="glm-welcome"><h2>{escape(say("welcome"))}</h2>{note}'
            f'<div class="glm-examples" role="group" aria-label="{escape(say("examples_label"))}">'
            f"{buttons}</div></div>"
        )

    def _render_turns(self, keys: Sequence[tuple[int, Turn, bool, bool]]) -> list[str]:
        """Return the pieces of turns; only those that are not there yet are rendered."""
        pieces = {key: self._rendered.get(key) or self._render_turn(*key) for key in keys}
        answers = {turn.answer for _, turn, _, _ in keys}
        self._rendered = pieces
        self._bodies = {answer: body for answer, body in self._bodies.items() if answer in answers}
        return list(pieces.values())

    def _render_turn(self, index: int, turn: Turn, is_last: bool, is_rendered: bool) -> str:
        actions = [self._render_copy(turn.answer)]
        if is_last:
            actions.append(self._render_button("retry", index))
        actions.append(self._render_button("delete", index))
        body = self._render_body(turn.answer, is_rendered)
        question = self._render_question(
            turn.question, self._render_copy(turn.question) + self._render_button("edit", index)
        )
        return (
            f'<div class="glm-turn">{question}'
            f'<article class="glm-answer" aria-label="{escape(self._say("model"))}">'
            f'<div class="glm-markdown">{body}</div>'
            f'<div class="glm-actions">{"".join(actions)}</div></article></div>'
        )

    def _render_body(self, answer: str, is_rendered: bool) -> str:
        if not answer.strip():
            return f"<p>{escape(self._say('empty_answer'))}</p>"
        if not is_rendered:
            return render_plain(answer, self._say("plain_answer"))
        body = self._bodies.get(answer)
        if body is None:
            body = self._bodies[answer] = self._render_markdown(answer)
        return body

    def _render_markdown(self, answer: str) -> str:
        with _RENDERERS:
            return self._markdown(answer)

    def _render_question(self, question: str, actions: str) -> str:
        return (
            f'<article class="glm-question" aria-label="{escape(self._say("you"))}">'
            f'<div class="glm-text">{escape(question)}</div>'
            f'<div class="glm-actions">{actions}</div></article>'
        )

    def _render_button(self, action: str, index: int) -> str:
        label = escape(self._say(action))
        return (
            f'<button type="button" data-action="{action}" data-index="{index}" aria-label="{label}" '
            f'title="{label}">{_render_icon(action)}</button>'
        )

    def _render_copy(self, source: str) -> str:
        label = escape(self._say("copy"))
        return (
            f'<button type="button" data-action="copy" data-source="{escape(source)}" '
            f'aria-label="{label}" title="{label}">{_render_icon("copy")}</button>'
        )


def _find_first_rendered(turns: Sequence[Turn]) -> int:
    """Return the index of the first turn whose answer is rendered; those before it are too long ago."""
    characters, lines = MAX_LOG_MARKDOWN, MAX_LOG_LINES
    for index in range(len(turns) - 1, -1, -1):
        characters -= len(turns[index].answer)
        lines -= turns[index].answer.count("\n") + 1
        if (characters < 0 or lines < 0) and index < len(turns) - 1:  # the last one has limits of its own
            return index + 1
    return 0


def _render_icon(name: str) -> str:
    return f'<svg viewBox="0 0 24 24" aria-hidden="true"><path d="{_ICONS[name]}"></path></svg>'
