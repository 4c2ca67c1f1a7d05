"""Markdown to HTML: what is drawn, and what can never come out."""

from __future__ import annotations

from html.parser import HTMLParser
from typing import Any

import pytest
from glm_frontend_web._markdown import HtmlRenderer
from glm_frontend_web._math import MAX_LENGTH, to_mathml
from glm_frontend_web._texts import SAY
from hypothesis import given, strategies as st
from web_payloads import PAYLOADS

render = HtmlRenderer(SAY["en"])

ALLOWED = {
    *(
        "p",
        "br",
        "hr",
        "h1",
        "h2",
        "h3",
        "h4",
        "h5",
        "h6",
        "ul",
        "ol",
        "li",
        "blockquote",
        "strong",
        "em",
        "s",
    ),
    *("a", "code", "pre", "div", "span", "button", "table", "thead", "tbody", "tr", "th", "td"),
    *(
        "math",
        "mrow",
        "mi",
        "mn",
        "mo",
        "mtext",
        "mfrac",
        "msup",
        "msub",
        "msubsup",
        "msqrt",
        "mroot",
        "mstyle",
    ),
    *("mspace", "mtable", "mtr", "mtd", "munder", "mover", "munderover", "menclose", "mpadded", "mphantom"),
}


class Inspector(HTMLParser):
    """Notes every element that is not allowed, every handler, and every unsafe link."""

    def __init__(self, html: Any) -> None:
        super().__init__()
        self.faults: list[tuple[str, Any]] = []
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: Any, attributes: Any) -> None:
        """Look at one element."""
        if tag not in ALLOWED:
            self.faults.append(tag)
        for name, value in attributes:
            if name.startswith("on") or name in ("src", "srcdoc", "action", "formaction", "xlink:href"):
                self.faults.append((tag, name))
            if name == "href" and not (value or "").lower().startswith(("http://", "https://", "mailto:")):
                self.faults.append((tag, value))

    def handle_comment(self, data: str) -> None:
        """Comments never come out."""
        self.faults.append(("comment", data))


def test_the_inspector_finds_faults() -> None:
    """The tests below can fail."""
    assert Inspector("<img src=x onerror=y><a href='javascript:x'>").faults
    assert not Inspector("<p><a href='https://example.org'>x</a></p>").faults


@pytest.mark.parametrize("payload", PAYLOADS)
def test_no_payload_gets_through(payload: Any) -> None:
    """Nothing that could run is in the HTML, alone or between other text."""
    for text in (
        payload,
        f"- {payload}",
        f"> {payload}",
        f"a {payload} b",
        f"```\n{payload}",
        f"# {payload}",
    ):
        assert Inspector(render(text)).faults == []


@given(
    st.lists(st.sampled_from([*"<>&\"'`$\\()[]!#*_|-\n \t", *PAYLOADS, "a", "](", "```", "$$", "\\(", "\\]"]))
)
def test_no_mixture_gets_through(parts: Any) -> None:
    """Nor does any mixture of markup and payloads."""
    assert Inspector(render("".join(parts))).faults == []


def test_raw_html_is_shown_as_text() -> None:
    """What a model writes as HTML is read as it was written."""
    assert render("<b>bold</b> <!-- x -->") == "<p>&lt;b&gt;bold&lt;/b&gt; &lt;!-- x --&gt;</p>\n"


def test_links_open_elsewhere_and_tell_nothing() -> None:
    """A link opens in a new window without telling where it was followed from; titles are dropped."""
    assert render('[x](https://example.org "t")') == (
        '<p><a href="https://example.org" target="_blank" rel="noopener noreferrer nofollow">x</a></p>\n'
    )
    assert "<a " in render("<mailto:someone@example.org>")
    assert "<a " not in render("[x](/settings) [y](ftp://example.org) [z](#top) [v]() [w](<>)")


def test_pictures_are_links() -> None:
    """Showing a picture would tell its server who reads, so it is a link."""
    assert render("![a cat](https://example.org/cat.png)").startswith(
        '<p>!<a href="https://example.org/cat.png"'
    )


def test_code_is_highlighted_and_can_be_copied() -> None:
    """A block has its language, a button, and classes on its words; unknown languages are plain."""
    html = render("```python\nreturn 1 < 2\n```")
    assert '<span class="k">return</span>' in html
    assert "&lt;" in html
    assert '<button type="button" data-action="copy-code">Copy code</button>' in html
    assert "<code>1 &lt; 2\n</code>" in render("```klingon\n1 < 2\n```")
    assert "<code>" + "x" * 30_000 in render("```python\n" + "x" * 30_000)


@pytest.mark.parametrize(
    "text", ["$x^2$", "$$x^2$$", r"\(x^2\)", r"\[x^2\]", "a\n\n$$\nx^2\n$$\n\nb", "see \\[\nx^2\n\\] there"]
)
def test_formulas_in_every_notation(text: str) -> None:
    """Dollars and brackets, in a line and on their own."""
    assert "<msup><mi>x</mi><mn>2</mn></msup>" in render(text)


@pytest.mark.parametrize("text", ["costs $5 or $6", "`$x$`", r"\\(x\\)", r"an open \( bracket", "a $ b $ c"])
def test_what_is_no_formula(text: str) -> None:
    """Prices, code, escaped brackets and lone signs stay text."""
    assert "<math" not in render(text)


def test_a_formula_that_is_not_understood_is_shown_as_text() -> None:
    """Too long, or beyond the converter: the source is shown."""
    assert to_mathml("x" * (MAX_LENGTH + 1), display=False) is None
    assert to_mathml(r"\left(", display=False) is None
    assert "<code>" in render("$" + "x" * (MAX_LENGTH + 1) + "$")


def test_formulas_are_escaped() -> None:
    """Text in a formula is text, and a link in it is none."""
    assert "<img" not in (to_mathml(r"\text{<img/src=x>}", display=False) or "")
    assert "href" not in (to_mathml(r"\href{javascript:x}{y}", display=False) or "")
    assert "<mfrac>" in (to_mathml(r"\begin{aligned}a &= \frac{b}{c}\end{aligned}", display=True) or "")


@given(st.text(st.sampled_from("\\{}^_&<>\"'abx12+=frac tex() \n"), max_size=40))
def test_no_formula_breaks_anything(tex: Any) -> None:
    """Any TeX gives safe MathML or nothing."""
    assert Inspector(to_mathml(tex, display=True) or "").faults == []
