"""Markdown from a model as HTML that is safe to put into a page.

Raw HTML is not part of the Markdown that is understood here: it comes out as text. Links lead to
http, https and mailto addresses only, pictures are links (loading one would tell a stranger's
server who reads), and code is shown as it is.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from html import escape
from typing import Any

from markdown_it import MarkdownIt
from markdown_it.token import Token
from markdown_it.utils import OptionsDict
from mdit_py_plugins.dollarmath import dollarmath_plugin
from pygments import highlight
from pygments.formatters.html import HtmlFormatter
from pygments.lexers import get_lexer_by_name
from pygments.util import ClassNotFound

from ._bounded_rules import parse_bracket_math, parse_dollar_block, parse_paragraphs, split_markdown
from ._math import to_mathml
from ._texts import Texts

MAX_HIGHLIGHTED = 20_000
_SAFE_LINK = re.compile(r"(?:https?://|mailto:)[^\s\x00-\x1f]+", re.IGNORECASE)
_FORMATTER = HtmlFormatter(nowrap=True)


class HtmlRenderer:
    """Renders answers; one for each language, since code blocks have a button with a text.

    Args:
        say: the texts.
    """

    def __init__(self, say: Texts) -> None:
        self._say = say
        parser = MarkdownIt("commonmark", {"html": False, "breaks": True}).enable(["table", "strikethrough"])
        parser.disable("image")
        parser.validateLink = _is_safe_link  # type: ignore[method-assign]
        parser.use(
            dollarmath_plugin, allow_labels=False, allow_space=False, allow_digits=False, double_inline=True
        )
        parser.inline.ruler.before("escape", "math_brackets", parse_bracket_math)
        parser.block.ruler.at("math_block", parse_dollar_block)
        parser.core.ruler.at("inline", parse_paragraphs)
        for rule, method in {
            "fence": self._render_code_block,
            "code_block": self._render_code_block,
            "link_open": _render_link_open,
            "table_open": _render_table_open,
            "table_close": _render_table_close,
            "math_inline": _render_inline_math,
            "math_inline_double": _render_display_math,
            "math_block": _render_display_math,
        }.items():
            parser.renderer.rules[rule] = method  # type: ignore[attr-defined]
        self._parser = parser

    def __call__(self, markdown: str) -> str:
        """Return the HTML of ``markdown``; what is too long for that comes as it is, after a note."""
        head, rest = split_markdown(markdown)
        html = str(self._parser.render(head))
        if not rest:
            return html
        return html + render_plain(rest, self._say("plain_from_here"))

    def _render_code_block(
        self, tokens: Sequence[Token], index: int, options: OptionsDict, environment: dict[str, Any]
    ) -> str:
        token = tokens[index]
        language = (token.info.split() or [""])[0]
        copy = escape(self._say("copy_code"))
        return (
            f'<div class="glm-code"><div class="glm-code-bar"><span>{escape(language)}</span>'
            f'<button type="button" data-action="copy-code">{copy}</button></div>'
            f'<pre tabindex="0"><code>{_highlight(token.content, language)}</code></pre></div>\n'
        )


def render_plain(text: str, note: str) -> str:
    """Return the HTML of a note and of a text that is shown as it is."""
    return f'<p><em>{escape(note)}</em></p>\n<div class="glm-plain">{escape(text)}</div>\n'


def _highlight(code: str, language: str) -> str:
    if language and len(code) <= MAX_HIGHLIGHTED:
        try:
            return str(highlight(code, get_lexer_by_name(language, stripnl=False), _FORMATTER))
        except ClassNotFound:
            pass
    return escape(code)


def _is_safe_link(url: str) -> bool:
    return _SAFE_LINK.fullmatch(url) is not None


def _render_link_open(
    tokens: Sequence[Token], index: int, options: OptionsDict, environment: dict[str, Any]
) -> str:
    href = escape(str(tokens[index].attrs.get("href", "")))
    if not href:  # markdown-it asks `validateLink` about addresses only, and an empty one is the page itself
        return "<a>"
    return f'<a href="{href}" target="_blank" rel="noopener noreferrer nofollow">'


def _render_table_open(
    tokens: Sequence[Token], index: int, options: OptionsDict, environment: dict[str, Any]
) -> str:
    return '<div class="glm-table" tabindex="0"><table>\n'


def _render_table_close(
    tokens: Sequence[Token], index: int, options: OptionsDict, environment: dict[str, Any]
) -> str:
    return "</table></div>\n"


def _render_inline_math(
    tokens: Sequence[Token], index: int, options: OptionsDict, environment: dict[str, Any]
) -> str:
    tex = tokens[index].content
    return to_mathml(tex, display=False) or f"<code>{escape(tex)}</code>"


def _render_display_math(
    tokens: Sequence[Token], index: int, options: OptionsDict, environment: dict[str, Any]
) -> str:
    tex = tokens[index].content
    formula = to_mathml(tex, display=True) or f"<code>{escape(tex)}</code>"
    return f'<span class="glm-formula" tabindex="0">{formula}</span>\n'
