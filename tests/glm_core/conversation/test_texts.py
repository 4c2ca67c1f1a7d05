"""The texts of conversation files, in both languages."""

from __future__ import annotations

import ast
import string
from pathlib import Path

import glm_core.conversation
from glm_core.conversation._texts import _TEXTS as TEXTS
from glm_core.messages import ROLES

SOURCES = sorted(Path(glm_core.conversation.__file__).parent.glob("*.py"))


def test_each_text_has_both_languages_and_the_same_fields() -> None:
    """No column is empty or in the other's place, and both fill in the same fields."""
    for key, (chinese, english) in TEXTS.items():
        fields = [
            sorted({name for _, name, _, _ in string.Formatter().parse(text) if name})
            for text in (chinese, english)
        ]
        assert fields[0] == fields[1], key
        assert any("\u4e00" <= character <= "\u9fff" for character in chinese), key
        assert english.strip(), key
        assert not any("\u3000" <= character <= "\u9fff" for character in english), key


def test_every_text_is_used_and_every_text_used_exists() -> None:
    """The keys in the source are the keys in the table; a role's name is the key of its heading."""
    asked: set[str] = set(ROLES)
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "say" and node.args:
                keys = {each.value for each in ast.walk(node.args[0]) if isinstance(each, ast.Constant)}
                asked |= {str(key) for key in keys}
    assert asked == set(TEXTS)
