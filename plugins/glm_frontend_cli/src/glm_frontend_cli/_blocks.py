"""Cutting Markdown into blocks while it is still arriving.

A block is *finished* once another has begun after it on a complete line: no further text can
change it, so it can be printed for good. Only what follows has to be painted again and again.
Items of a list count as blocks, since answers often are one long list.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from markdown_it import MarkdownIt
from markdown_it.rules_core import StateCore
from markdown_it.token import Token
from markdown_it.tree import SyntaxTreeNode

from glm_core.cleaning import has_costly_markup

_LISTS = ("bullet_list", "ordered_list")


def _parse_paragraphs(state: StateCore) -> None:
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


# Without HTML, tags are shown as the text they are instead of vanishing.
_PARSER = MarkdownIt("commonmark", {"html": False}).enable(["table", "strikethrough"])
_PARSER.core.ruler.at("inline", _parse_paragraphs)


@dataclass(frozen=True)
class Block:
    """A top-level block, or one item of a top-level list.

    Attributes:
        node: the parsed block.
        start: first line in the source it was parsed from.
        list_key: kind of list that the item belongs to; ``None`` for other blocks.
        number: of the item in an ordered list.
        gap: whether an empty line stands before it.
    """

    node: SyntaxTreeNode
    start: int
    list_key: tuple[str, str] | None = None
    number: int | None = None
    gap: bool = True


def parse(source: str, previous: Block | None = None, *, blank_before: bool = False) -> list[Block]:
    """Return the blocks of ``source``.

    Args:
        source: Markdown.
        previous: the block before it, if it goes on with a text; an item's list is then continued.
        blank_before: whether an empty line separates the two.
    """
    lines = source.split("\n")
    blocks: list[Block] = []
    for node in SyntaxTreeNode(_PARSER.parse(source)).children:
        before = blocks[-1] if blocks else previous
        if node.type in _LISTS:
            blocks.extend(_split_items(node, before, lines, blank_before))
        else:
            blocks.append(Block(node, _find_first_line(node), gap=before is not None))
    return blocks


def find_code_blocks(source: str) -> list[str]:
    """Return the contents of every code block, those in lists and quotations included."""
    tokens = _PARSER.parse(source)
    return [token.content for token in tokens if token.type in ("fence", "code_block")]


def _split_items(
    node: SyntaxTreeNode, before: Block | None, lines: list[str], blank_before: bool
) -> Iterator[Block]:
    key = (node.type, node.markup)
    for index, item in enumerate(node.children):
        start = _find_first_line(item)
        continues = before is not None and before.list_key == key
        number: int | None = None
        if node.type == "ordered_list":
            follows = continues and before is not None and before.number is not None
            number = before.number + 1 if follows else int(node.attrs.get("start", 1))  # type: ignore[union-attr,operator]
        blank = not lines[start - 1].strip() if start else blank_before
        gap = blank if continues or index else before is not None
        before = Block(item, start, key, number, gap)
        yield before


def _find_first_line(node: SyntaxTreeNode) -> int:
    return node.map[0] if node.map else 0


class BlockStream:
    """Markdown that arrives piece by piece."""

    def __init__(self) -> None:
        self._source = ""
        self._previous: Block | None = None
        self._blank_before = False

    def feed(self, text: str) -> None:
        """Append ``text``."""
        self._source += text

    def take_finished(self, *, final: bool = False) -> list[Block]:
        """Remove and return the blocks that are finished; with ``final``, all of them."""
        complete = self._source if final else self._source[: self._source.rfind("\n") + 1]
        blocks = self._parse(complete)
        finished = blocks if final else blocks[:-1]
        if finished:
            rest = len(complete) if final else _find_offset(complete, blocks[-1].start)
            self._blank_before = not complete[:rest].removesuffix("\n").rpartition("\n")[2].strip()
            self._previous = finished[-1]
            self._source = self._source[rest:]
        return finished

    def parse_open_blocks(self) -> list[Block]:
        """Return the blocks that may still change, the unfinished line included."""
        return self._parse(self._source)

    def _parse(self, source: str) -> list[Block]:
        return parse(source, self._previous, blank_before=self._blank_before)


def _find_offset(text: str, line: int) -> int:
    """Return the offset at which line number ``line`` starts."""
    return sum(len(part) + 1 for part in text.split("\n")[:line])
