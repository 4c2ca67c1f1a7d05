"""The conversation as HTML, one piece a turn; everything that people or models wrote is escaped.

It is not gradio's Chatbot, which leaves TeX and diagrams of a model to its sanitiser in the browser.
"""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from glm_core.conversation import Turn

from ._markdown import HtmlRenderer
from ._texts import Texts

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
        self._rendered: dict[tuple[int, Turn, bool], str] = {}

    def __deepcopy__(self, memo: object) -> ConversationLog:
        return ConversationLog(self._say, demo=self._demo)

    def render(self, turns: Sequence[Turn]) -> list[str]:
        """Return the whole log, while no answer comes."""
        if not turns:
            return [self.render_welcome()]
        last = len(turns) - 1
        keys = [(index, turn, index == last) for index, turn in enumerate(turns)]
        self._rendered = {key: self._rendered.get(key) or self._render_turn(*key) for key in keys}
        return list(self._rendered.values())

    def render_growing(self, turns: Sequence[Turn], question: str, answer: str) -> list[str]:
        """Return the log while an answer comes: ``turns``, ``question``, and its answer so far."""
        before = [
            self._rendered.get((index, turn, False)) or self._render_turn(index, turn, False)
            for index, turn in enumerate(turns)
        ]
        for index, (turn, piece) in enumerate(zip(turns, before, strict=True)):
            self._rendered[index, turn, False] = piece
        dots = f'<p class="glm-dots" aria-label="{escape(self._say("thinking"))}" role="img">•••</p>'
        body = self._markdown(answer) if answer.strip() else dots
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

    def _render_turn(self, index: int, turn: Turn, is_last: bool) -> str:
        actions = [self._render_copy(turn.answer)]
        if is_last:
            actions.append(self._render_button("retry", index))
        actions.append(self._render_button("delete", index))
        body = (
            self._markdown(turn.answer)
            if turn.answer.strip()
            else f"<p>{escape(self._say('empty_answer'))}</p>"
        )
        question = self._render_question(
            turn.question, self._render_copy(turn.question) + self._render_button("edit", index)
        )
        return (
            f'<div class="glm-turn">{question}'
            f'<article class="glm-answer" aria-label="{escape(self._say("model"))}">'
            f'<div class="glm-markdown">{body}</div>'
            f'<div class="glm-actions">{"".join(actions)}</div></article></div>'
        )

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


def _render_icon(name: str) -> str:
    return f'<svg viewBox="0 0 24 24" aria-hidden="true"><path d="{_ICONS[name]}"></path></svg>'
