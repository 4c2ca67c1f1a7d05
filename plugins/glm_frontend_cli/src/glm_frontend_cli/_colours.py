"""Colours that can be read on dark and on light backgrounds.

A terminal rarely says which it has, so nothing here is yellow, blue, bright or white: each of
those vanishes on one of the two. The colours are the terminal's own sixteen, which its user chose.
"""

from __future__ import annotations

from pygments import token
from rich.style import Style
from rich.syntax import ANSISyntaxTheme

MARKDOWN = {
    "strong": Style(bold=True),
    "em": Style(italic=True),
    "s": Style(strike=True),
    "code": Style(color="cyan"),
    "url": Style(underline=True),
    "heading": Style(bold=True, color="magenta"),
    "marker": Style(bold=True, color="cyan"),
    "faint": Style(dim=True),
}

CODE = ANSISyntaxTheme(
    {
        token.Token: Style(),
        token.Comment: Style(dim=True),
        token.Comment.Preproc: Style(color="cyan"),
        token.Keyword: Style(color="magenta"),
        token.Keyword.Type: Style(color="cyan"),
        token.Operator.Word: Style(color="magenta"),
        token.Name.Builtin: Style(color="cyan"),
        token.Name.Class: Style(bold=True),
        token.Name.Decorator: Style(color="cyan"),
        token.Name.Exception: Style(color="cyan"),
        token.Name.Function: Style(bold=True),
        token.Name.Tag: Style(color="magenta"),
        token.String: Style(color="green"),
        token.Number: Style(color="cyan"),
        token.Generic.Deleted: Style(color="red"),
        token.Generic.Inserted: Style(color="green"),
        token.Generic.Heading: Style(bold=True),
        token.Generic.Error: Style(color="red"),
        token.Error: Style(),
    }
)
