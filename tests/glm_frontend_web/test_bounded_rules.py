"""Rendering takes time in proportion to the length of a text, whatever the text is."""

from __future__ import annotations

import itertools

import pytest
from glm_frontend_web._bounded_rules import MAX_MARKDOWN, split_markdown
from glm_frontend_web._markdown import HtmlRenderer
from glm_frontend_web._math import MAX_LENGTH, to_mathml
from glm_frontend_web._texts import SAY
from hypothesis import given, settings, strategies as st
from processor_time import assert_in_proportion, measure_seconds

render = HtmlRenderer(SAY["en"])

# Everything that means something in Markdown or TeX, alone and beside what it goes together with.
DELIMITERS = (
    *"!\"#$%&'()*+-.:;<=>@[\\]^_`{}~|\n a1",
    *(
        r"\(",
        r"\)",
        r"\[",
        r"\]",
        "$$",
        "$a",
        "$$a\n",
        "](",
        "](a",
        "![",
        "[]",
        "[a]",
        "[a]:",
        "]: b\n",
        "[^a]",
    ),
    *(
        "<a",
        "<b>",
        "<http://",
        "</",
        "<!--",
        "&#",
        "&amp",
        "&a",
        "**",
        "__",
        "~~",
        "``",
        "```",
        "```\n",
        "~~~\n",
    ),
    *("- ", "> ", "1. ", "# ", "|-|\n", "|a|\n", "---\n", "===\n", "    ", "\t", "\n\n", "\\\n", "  \n"),
    *("*a", "a*", "_a", "a_", "***", r"\frac", "^{", "_{", "x^", r"\sqrt[", r"\left(", r"\begin{matrix}"),
    *("中", "“", "http://a.b/c", "a@b.c", r"\text{", r"\not", "'", r"\hline", "&&", r"\\"),
)
PATTERNS = st.lists(st.sampled_from(DELIMITERS), min_size=1, max_size=4).map("".join)
LENGTH = MAX_MARKDOWN // 5
# A slow machine takes ten milliseconds to render a page of prose. Less than this is not measured reliably.
MIN_SECONDS = 0.05


@settings(deadline=None)
@given(
    PATTERNS,
    st.sampled_from(["", "> ", "- ", "a\n", "$$\n", r"\(", "|a|\n|-|\n"]),
    st.sampled_from(["", "$$", r"\)", "]"]),
)
def test_four_times_the_text_takes_about_four_times_as_long(pattern: str, head: str, tail: str) -> None:
    """For every repeated pattern of delimiters: not sixteen times, as where each looks for its partner."""
    short, long = (head + pattern * (length // len(pattern)) + tail for length in (LENGTH, 4 * LENGTH))
    assert_in_proportion(lambda: render(short), lambda: render(long), factor=10, least=MIN_SECONDS)


@pytest.mark.parametrize("pattern", [*DELIMITERS, "[a](b) ", "**a** ", "$x$ ", r"\(x\) ", "`a` ", "|a|b|\n"])
@pytest.mark.parametrize("length", [200_000, 1_000_000])
def test_a_text_beyond_the_limit_takes_no_longer_than_one_at_it(pattern: str, length: int) -> None:
    """What comes after 100,000 characters is shown as it is, which costs next to nothing."""
    at_limit, beyond = (pattern * (size // len(pattern)) for size in (MAX_MARKDOWN, length))
    # Writing it escaped is what a text beyond the limit costs, a microsecond a character at most.
    least = MIN_SECONDS + length * 1e-6
    assert_in_proportion(lambda: render(at_limit), lambda: render(beyond), factor=3, least=least)


@settings(deadline=None)
@given(PATTERNS)
def test_a_formula_takes_time_in_proportion_to_its_length(pattern: str) -> None:
    """The longest formula that is drawn takes little more than four of a quarter of its length."""
    short, long = (pattern * (length // len(pattern)) for length in (MAX_LENGTH // 4, MAX_LENGTH))
    assert_in_proportion(
        lambda: to_mathml(short, display=True),
        lambda: to_mathml(long, display=True),
        factor=10,
        least=MIN_SECONDS,
    )


@pytest.mark.parametrize(
    "definition",
    [
        r"\newcommand{{\{0}}}{{\{1}\{1}}}",
        r"\def\{0}{{\{1}\{1}}}",
        r"\newcommand\{0}{{\{1}\{1}}}",
    ],
)
def test_a_formula_cannot_grow_by_its_own_commands(definition: str) -> None:
    """Thirty commands, each of which is the one before twice, would be a billion symbols."""
    names = [f"a{chr(97 + number)}" for number in range(30)]
    lines = [definition.format(name, before) for before, name in itertools.pairwise(names)]
    formula = "".join(lines) + f"\\{names[-1]}"
    assert to_mathml(formula, display=True) is None
    assert measure_seconds(lambda: to_mathml(formula, display=True), enough=1) < 1


def test_a_paragraph_with_too_much_markup_is_shown_as_it_is() -> None:
    """Every line of it, escaped; the paragraphs around it are rendered."""
    heavy = "[<b>" * 5000
    html = render(f"**before**\n\n{heavy}\nnext line\n\n**after**")
    assert "<strong>before</strong>" in html
    assert "<strong>after</strong>" in html
    assert "[&lt;b&gt;" * 5000 + "<br />\nnext line" in html


def test_a_long_answer_is_rendered_up_to_the_limit() -> None:
    """Cut between two lines, with a note, and the rest as it is."""
    line = "**bold** text\n\n"
    text = line * (2 * MAX_MARKDOWN // len(line))
    head, rest = split_markdown(text)
    assert head + rest == text
    assert len(head) <= MAX_MARKDOWN
    assert head.endswith("\n")
    html = render(text)
    assert html.count("<strong>") == head.count("\n\n")
    assert "shown as plain text" in html
    assert html.count("**bold**") == rest.count("\n\n")
    assert split_markdown("x" * MAX_MARKDOWN) == ("x" * MAX_MARKDOWN, "")
    assert "plain text" not in render("x" * MAX_MARKDOWN)


@pytest.mark.parametrize(
    ("text", "formulas"),
    [
        ("$$\nx\n$$", 1),
        ("$$x$$", 1),
        ("$$x\ny$$\n\n$$z$$", 2),
        ("> $$\n> x\n> $$\n\nb", 1),
        ("- $$\n  x\n  $$\n- b", 1),
        ("$$\n\n x\n\n$$", 1),
        ("$$x$$ and $$y$$", 2),
        ("$$x$$ and", 1),
        ("$$\nx\n", 0),
        ("$$" + "x" * MAX_LENGTH + "x$$", 0),
        (f"$$\n{'x' * MAX_LENGTH}\n\n$$y$$", 1),
        ("$$", 0),
        ("$$$", 0),
        ("    $$x$$", 0),
    ],
)
def test_formulas_between_double_dollars(text: str, formulas: int) -> None:
    """In quotations and lists, over several lines; what has no end, or is too long, is text."""
    html = render(text)
    assert html.count("<math") == formulas, html
    assert "&gt;" not in html


@pytest.mark.parametrize("brackets", [(r"\(", r"\)"), (r"\[", r"\]")])
def test_a_formula_in_brackets_may_be_as_long_as_is_drawn(brackets: tuple[str, str]) -> None:
    """One character more, and its source is shown."""
    opening, closing = brackets
    assert "<math" in render(opening + "x" * MAX_LENGTH + closing)
    html = render(opening + "x" * (MAX_LENGTH + 1) + closing)
    assert "<math" not in html
    assert "x" * (MAX_LENGTH + 1) in html
