"""The table of texts."""

from __future__ import annotations

import ast
import string
from pathlib import Path
from typing import Any

import glm_frontend_cli
from glm_frontend_cli._commands import COMMANDS
from glm_frontend_cli._texts import TEXTS, Texts

SOURCES = sorted(Path(glm_frontend_cli.__file__).parent.glob("*.py"))


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
    """The columns of the table are not swapped anywhere."""
    for key, (_, english) in TEXTS.items():
        assert not any("\u3000" <= character <= "\u9fff" for character in english), key


def test_every_text_asked_for_exists_and_every_text_is_used() -> None:
    """The keys in the source are the keys in the table."""
    asked = {f"help_{command.name}" for command in COMMANDS}
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and ast.unparse(node.func).endswith("say"):
                asked |= {
                    inner.value
                    for inner in ast.walk(node.args[0])
                    if isinstance(inner, ast.Constant) and inner.value in TEXTS
                }
                first = node.args[0]
                assert not isinstance(first, ast.Constant) or first.value in TEXTS, ast.unparse(node)
    assert len(SOURCES) > 10
    assert asked == set(TEXTS)


def test_texts_speak_the_chosen_language() -> None:
    """The same key gives Chinese or English, with its fields filled in."""
    assert Texts("zh")("saved", path="a.json") == "已保存到 a.json"
    assert Texts("en")("saved", path="a.json") == "Saved to a.json"
