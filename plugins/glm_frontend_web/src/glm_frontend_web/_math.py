"""TeX formulas as MathML, which browsers draw without scripts and fonts.

The converter's own output is not escaped, so its tree is written out here: known elements and
attributes only, every text escaped.
"""

from __future__ import annotations

import re
from html import escape, unescape
from xml.etree.ElementTree import Element

from latex2mathml.converter import convert_to_element

MAX_LENGTH = 2000

_ELEMENTS = frozenset(
    {
        *("math", "menclose", "mfrac", "mi", "mmultiscripts", "mn", "mo", "mover", "mpadded", "mphantom"),
        *("mroot", "mrow", "mspace", "msqrt", "mstyle", "msub", "msubsup", "msup", "mtable", "mtd", "mtext"),
        *("mtr", "munder", "munderover"),
    }
)
_ATTRIBUTES = frozenset(
    {
        *(
            "accent",
            "columnalign",
            "columnlines",
            "depth",
            "display",
            "displaystyle",
            "fence",
            "form",
            "height",
        ),
        *("largeop", "linebreak", "linethickness", "lspace", "mathvariant", "maxsize", "minsize"),
        *("movablelimits", "notation", "rowlines", "rowspacing", "rspace", "scriptlevel", "separator"),
        *("stretchy", "symmetric", "voffset", "width"),
    }
)
# Environments that differ from one the converter knows in nothing that matters here.
_ENVIRONMENT = re.compile(r"\\(begin|end)\{(?:align|aligned|gathered|split|gather\*?|equation\*?)\}")
# Each command that a formula defines may double its size, and 2,000 characters are room for fifty.
_DEFINITION = re.compile(
    r"\\(?:(?:new|renew|provide)(?:command|environment)|[egx]?def|let|DeclareMathOperator)(?![a-zA-Z])"
)


def to_mathml(tex: str, *, display: bool) -> str | None:
    """Return the formula as safe MathML, or ``None`` where it is shown as text.

    That is one that is too long, that defines commands of its own, or that cannot be understood.

    >>> to_mathml("x^2", display=False)
    '<math display="inline"><mrow><msup><mi>x</mi><mn>2</mn></msup></mrow></math>'
    """
    if len(tex) > MAX_LENGTH or _DEFINITION.search(tex):
        return None
    try:
        tree = convert_to_element(
            _ENVIRONMENT.sub(r"\\\1{align*}", tex.strip()), display="block" if display else "inline"
        )
        return _write(tree)
    except Exception:  # whatever a formula of a model does to the converter, the formula is shown as text
        return None


def _write(element: Element) -> str:
    if element.tag not in _ELEMENTS:
        raise ValueError(f"element {element.tag!r} is not known")
    attributes = "".join(
        f' {name}="{escape(unescape(value))}"'
        for name, value in element.attrib.items()
        if name in _ATTRIBUTES
    )
    content = escape(unescape(element.text or ""), quote=False) + "".join(map(_write, element))
    return f"<{element.tag}{attributes}>{content}</{element.tag}>"
