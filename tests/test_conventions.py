"""Conventions that no linter checks."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
TESTS = sorted(Path(__file__).parent.rglob("test_*.py"))
SOURCES = sorted([*(ROOT / "glm_core").rglob("*.py"), *ROOT.glob("plugins/*/src/**/*.py")])


def test_there_are_files_to_look_at() -> None:
    """The tests below look at something."""
    assert len(TESTS) >= 30
    assert len(SOURCES) >= 60


@pytest.mark.parametrize("path", TESTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_test_states_its_behaviour(path: Path) -> None:
    """Each test function has a docstring."""
    functions = [
        node for node in ast.walk(ast.parse(path.read_text("utf-8"))) if isinstance(node, ast.FunctionDef)
    ]
    silent = [
        node.name for node in functions if node.name.startswith("test_") and not ast.get_docstring(node)
    ]
    assert silent == []


def test_modules_stay_small_enough_to_hold() -> None:
    """No module has more than 400 lines, no function more than 70, no GPU kernel more than 130."""
    long: list[str] = []
    for path in SOURCES:
        text = path.read_text("utf-8")
        if text.count("\n") > 400:
            long.append(f"{path.relative_to(ROOT)}: {text.count(chr(10))} lines")
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef):
                limit = 130 if any("triton.jit" in ast.unparse(each) for each in node.decorator_list) else 70
                if (node.end_lineno or 0) - node.lineno > limit:
                    long.append(f"{path.relative_to(ROOT)}: {node.name}")
    assert long == []
