"""Rules for markdown-it whose work grows with the length of a text and no faster, whatever it holds.

Answers come from models and from files of strangers, and a text of 200 KB that is made for it can keep a
usual parser busy for minutes.
"""

from __future__ import annotations

import re
from bisect import bisect_left

from markdown_it.rules_block import StateBlock
from markdown_it.rules_core import StateCore
from markdown_it.rules_inline import StateInline
from markdown_it.token import Token

from glm_core.cleaning import has_costly_markup

from ._math import MAX_LENGTH

MAX_MARKDOWN = 100_000
"""Characters of one answer that are rendered; about 30,000 tokens, longer than models answer."""
MAX_LINES = 5000
"""Lines of one answer that are rendered. Each may be a table, which takes as long as 20 characters."""

_LINE_ENDS = re.compile(r"\r\n|\n|\r")  # what markdown-it takes for one
_CLOSING_DOLLARS = re.compile(r"\$\$[ \t]*$", re.MULTILINE)


def split_markdown(text: str) -> tuple[str, str]:
    """Return the part of a text that is rendered as Markdown, and the rest, which is shown as it is."""
    end = len(text)
    if end > MAX_MARKDOWN:
        # Between two lines, because half a line could mean something else than the whole.
        end = text.rfind("\n", 0, MAX_MARKDOWN) + 1 or MAX_MARKDOWN
    lines = _LINE_ENDS.split(text[:end], MAX_LINES)
    if len(lines) > MAX_LINES:
        end -= len(lines[-1])
    return text[:end], text[end:]


def parse_paragraphs(state: StateCore) -> None:
    """Parse the inline Markdown of each paragraph, heading and cell, except where it has too much markup.

    Takes the place of markdown-it's own rule ``inline``. Each line of such a paragraph becomes plain text.
    """
    for token in state.tokens:
        if token.type != "inline":
            continue
        token.children = token.children or []
        if not has_costly_markup(token.content):
            state.md.inline.parse(token.content, state.md, state.env, token.children)
            continue
        for number, line in enumerate(token.content.split("\n")):
            if number:
                token.children.append(Token("softbreak", "br", 0))
            token.children.append(Token("text", "", 0, content=line))


def parse_bracket_math(state: StateInline, silent: bool) -> bool:
    r"""Parse a formula in ``\(...\)`` or ``\[...\]``; a longer one than is drawn stays text."""
    opening = state.src[state.pos : state.pos + 2]
    closing = {r"\(": r"\)", r"\[": r"\]"}.get(opening)
    if closing is None:
        return False
    begin = state.pos + 2
    # The search ends where the formula would be too long to be drawn, because from each of many openings
    # without an end it would otherwise go through the whole rest.
    end = state.src.find(closing, begin, min(state.posMax, begin + MAX_LENGTH + len(closing)))
    if end < 0:
        return False
    if not silent:
        token = state.push("math_inline" if opening == r"\(" else "math_inline_double", "math", 0)
        token.content = state.src[begin:end]
    state.pos = end + len(closing)
    return True


def parse_dollar_block(state: StateBlock, first_line: int, end_line: int, silent: bool) -> bool:
    """Parse a formula from ``$$`` at the beginning of a line to ``$$`` at the end of one.

    A longer formula than is drawn stays text.
    """
    begin = state.bMarks[first_line] + state.tShift[first_line]
    if state.is_code_block(first_line) or not state.src.startswith("$$", begin):
        return False
    # All ends of a text are found once, because a search from each beginning would be one through the rest.
    ends: list[int] = state.env.get("math_ends") or []
    if "math_ends" not in state.env:
        ends = state.env["math_ends"] = [match.start() for match in _CLOSING_DOLLARS.finditer(state.src)]
    index = bisect_left(ends, begin + 3)  # at least one character stands between the two
    if index == len(ends) or ends[index] - begin > MAX_LENGTH:
        return False
    end = ends[index]
    last_line = bisect_left(state.eMarks, end, lo=first_line)
    inner = state.src.find("$$", begin + 2, state.eMarks[first_line])
    if last_line >= end_line or 0 <= inner < end:  # a formula inside a line, with text after it
        return False
    if not silent:
        token = state.push("math_block", "math", 0)
        token.block, token.map = True, [first_line, last_line + 1]
        token.content = state.src[begin + 2 : min(end, state.eMarks[first_line])]
        if last_line > first_line:  # without the marks of a quotation or list around it
            rest = state.getLines(first_line + 1, last_line + 1, state.blkIndent, False)
            token.content += "\n" + rest.rstrip().removesuffix("$$")
    state.line = last_line + 1
    return True
