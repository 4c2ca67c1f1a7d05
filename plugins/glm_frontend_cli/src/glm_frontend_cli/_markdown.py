"""Rendering blocks of Markdown as lines of styled text.

Our own instead of rich's ``Markdown``, which drops HTML, joins lines that the model broke, pads
every line with spaces that end up in what one copies, and cannot render a list item by item.
Model output is untrusted: nothing is read as rich markup and no terminal hyperlink is made.
"""

from __future__ import annotations

from itertools import zip_longest

from markdown_it.tree import SyntaxTreeNode
from rich import box
from rich.console import Console, JustifyMethod
from rich.style import Style
from rich.syntax import Syntax, SyntaxTheme
from rich.table import Table
from rich.text import Text

from glm_core.cleaning import clean_text

from ._blocks import Block, parse
from ._colours import CODE, MARKDOWN as _STYLES
from ._wrapping import wrap

MAX_HIGHLIGHTED = 20_000
"""Characters of a code block that gets colours."""
_CODE_INDENT = "  "


class MarkdownRenderer:
    """Turns blocks into lines.

    Args:
        console: for tables, whose layout is rich's.
        code_theme: colours of code.
    """

    def __init__(self, console: Console, code_theme: SyntaxTheme = CODE) -> None:
        self._console = console
        self._code_theme = code_theme

    def render_document(self, source: str, width: int) -> list[Text]:
        """Return the lines of a whole text."""
        return [line for block in parse(source) for line in self.render_block(block, width)]

    def render_block(self, block: Block, width: int) -> list[Text]:
        """Return the lines of one block, the empty line before it included."""
        if block.list_key is not None:
            lines = self._render_item(block.node, block.number, width)
        else:
            lines = self._render_node(block.node, width)
        return [Text(), *lines] if block.gap else lines

    def render_code(self, node: SyntaxTreeNode, width: int) -> list[list[Text]]:
        """Return, for each source line of a code block, the lines that it takes on the screen."""
        language = node.info.split()[0] if node.info.strip() else "text"
        code = clean_text(node.content).removesuffix("\n").expandtabs(4)
        # No colours for long code, because some lexers take seconds for a text that is made for it.
        is_short = len(code) <= MAX_HIGHLIGHTED
        highlighted = Syntax("", language, theme=self._code_theme).highlight(code) if is_short else Text(code)
        plain_lines = code.split("\n")
        # Some lexers drop or add lines; better no colours than wrong code.
        if highlighted.plain.rstrip("\n") != code.rstrip("\n"):
            highlighted = Text(code)
        lines = list(highlighted.split("\n", allow_blank=True))[: len(plain_lines)]
        return [
            [_join(_CODE_INDENT, row) for row in wrap(line or Text(), width - len(_CODE_INDENT))]
            for line, _ in zip_longest(lines, plain_lines)
        ]

    def _render_node(self, node: SyntaxTreeNode, width: int) -> list[Text]:
        if node.type in ("fence", "code_block"):
            return [row for rows in self.render_code(node, width) for row in rows]
        if node.type == "heading":
            text = _render_inline(node)
            text.stylize(_STYLES["heading"])
            return wrap(text, width)
        if node.type == "blockquote":
            quoted = self._render_children(node, width - 2)
            return [_join("▌ ", line, _STYLES["faint"]) for line in quoted]
        if node.type in ("bullet_list", "ordered_list"):
            return self._render_list(node, width)
        if node.type == "hr":
            return [Text("─" * min(width, 40), style=_STYLES["faint"])]
        if node.type == "table":
            return self._render_table(node, width)
        return wrap(_render_inline(node), width)

    def _render_children(self, node: SyntaxTreeNode, width: int) -> list[Text]:
        lines: list[Text] = []
        for before, child in zip([None, *node.children], node.children, strict=False):
            if before is not None and _needs_gap(before, child):
                lines.append(Text())
            lines += self._render_node(child, width)
        return lines or [Text()]

    def _render_list(self, node: SyntaxTreeNode, width: int) -> list[Text]:
        first = int(node.attrs.get("start", 1))
        lines: list[Text] = []
        for index, item in enumerate(node.children):
            number = first + index if node.type == "ordered_list" else None
            lines += self._render_item(item, number, width)
        return lines

    def _render_item(self, item: SyntaxTreeNode, number: int | None, width: int) -> list[Text]:
        marker = "• " if number is None else f"{number}. "
        lines = self._render_children(item, width - len(marker))
        indent = " " * len(marker)
        first = _join(marker, lines[0], _STYLES["marker"])
        return [first, *(_join(indent, line) for line in lines[1:])]

    def _render_table(self, node: SyntaxTreeNode, width: int) -> list[Text]:
        rows = [row for part in node.children for row in part.children]
        table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, header_style=_STYLES["strong"])
        for cell in rows[0].children:
            table.add_column(_render_inline(cell), overflow="fold", justify=_read_alignment(cell))
        for row in rows[1:]:
            table.add_row(*(_render_inline(cell) for cell in row.children))
        rendered = self._console.render_lines(table, self._console.options.update(width=width), pad=False)
        lines = []
        for segments in rendered:
            line = Text()
            for segment in segments:
                line.append(segment.text, segment.style)
            line.rstrip()
            lines.append(line)
        return lines


def _needs_gap(before: SyntaxTreeNode, after: SyntaxTreeNode) -> bool:
    """Return whether an empty line belongs between two blocks: where there is one, and around code."""
    if "fence" in (before.type, after.type):
        return True
    return before.map is not None and after.map is not None and after.map[0] > before.map[1]


def _read_alignment(cell: SyntaxTreeNode) -> JustifyMethod:
    style = str(cell.attrs.get("style", ""))
    return "right" if "right" in style else "center" if "center" in style else "left"


def _join(prefix: str, line: Text, style: Style | None = None) -> Text:
    """Return ``line`` after ``prefix``; where both are blank, nothing."""
    if not line and not prefix.strip():
        return line
    return Text().append(prefix, style).append_text(line)


def _render_inline(node: SyntaxTreeNode) -> Text:
    """Return the text of a node that holds inline content."""
    text = Text()
    for child in node.children:
        _append(text, child)
    return text


def _append(text: Text, node: SyntaxTreeNode) -> None:
    if node.type in ("softbreak", "hardbreak"):  # models mean the line breaks they write
        text.append("\n")
    elif node.type == "code_inline":
        text.append(clean_text(node.content), _STYLES["code"])
    elif node.type in ("link", "image"):
        label = _render_inline(node)
        target = clean_text(str(node.attrs.get("href") or node.attrs.get("src") or ""))
        text.append_text(label)
        if target and target not in (label.plain, f"mailto:{label.plain}"):
            text.append(f" ({target})" if label else target, _STYLES["url"])
    elif node.children:
        inner = _render_inline(node)
        if node.type in _STYLES:
            inner.stylize(_STYLES[node.type])
        text.append_text(inner)
    else:
        text.append(clean_text(node.content))  # entities such as &#8238; are decoded by now
