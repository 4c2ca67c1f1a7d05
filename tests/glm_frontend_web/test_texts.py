"""The table of texts."""

from __future__ import annotations

import ast
import string
from pathlib import Path
from typing import Any

import glm_frontend_web
from glm_frontend_web._texts import DEMO_EXAMPLES, EXAMPLES, SAY, TEXTS

SOURCES = sorted(Path(glm_frontend_web.__file__).parent.glob("*.py"))


def fields(text: Any) -> set[str]:
    """Names in braces."""
    return {name for _, name, _, _ in string.Formatter().parse(text) if name}


def test_both_languages_have_every_text_with_the_same_fields() -> None:
    """No text is empty in one language, and both fill in the same fields."""
    assert len(TEXTS) > 50
    for key, (chinese, english) in TEXTS.items():
        assert chinese.strip(), key
        assert english.strip(), key
        assert fields(chinese) == fields(english), key


def test_english_texts_hold_no_chinese() -> None:
    """The columns of the tables are not swapped anywhere."""
    for _, english in [*TEXTS.values(), *EXAMPLES, *DEMO_EXAMPLES]:
        assert not any("\u3000" <= character <= "\u9fff" for character in english), english


def test_every_text_asked_for_exists_and_every_text_is_used() -> None:
    """The keys in the source are the keys in the table."""
    named = set()
    for path in SOURCES:
        if path.name == "_texts.py":
            continue
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Constant) and node.value in TEXTS:
                named.add(node.value)
            if isinstance(node, ast.Call) and ast.unparse(node.func).endswith("say") and node.args:
                first = node.args[0]
                assert not isinstance(first, ast.Constant) or first.value in TEXTS, ast.unparse(node)
    assert len(SOURCES) > 10
    assert named == set(TEXTS)


def test_examples_suit_the_model_and_the_language() -> None:
    """The demo model is asked about this software, every other one about ordinary things."""
    assert SAY["zh"].list_examples(demo=True) != SAY["zh"].list_examples(demo=False)
    assert "How do I quantise a model?" in SAY["en"].list_examples(demo=True)
    assert len(SAY["en"].list_examples(demo=False)) == len(SAY["zh"].list_examples(demo=False)) == 4
