"""Conventions that no linter checks."""

from __future__ import annotations

import ast
from pathlib import Path

ROOT = Path(__file__).parent.parent
TESTS = sorted(Path(__file__).parent.rglob("test_*.py"))
SOURCES = sorted([*(ROOT / "glm_core").rglob("*.py"), *ROOT.glob("plugins/*/src/**/*.py")])


def functions_of(path: Path) -> list[ast.FunctionDef]:
    """Return every function of a module, methods and nested ones as well."""
    return [
        node for node in ast.walk(ast.parse(path.read_text("utf-8"))) if isinstance(node, ast.FunctionDef)
    ]


def test_every_test_states_its_behaviour() -> None:
    """Each test function has a docstring."""
    tests = [
        (f"{path.relative_to(ROOT)}: {function.name}", ast.get_docstring(function))
        for path in TESTS
        for function in functions_of(path)
        if function.name.startswith("test_")
    ]
    assert len(TESTS) >= 150
    assert len(tests) >= 1500
    assert [name for name, behaviour in tests if not behaviour] == []


def test_modules_stay_small_enough_to_hold() -> None:
    """No module has more than 400 lines, no function more than 70, no GPU kernel more than 130."""
    assert len(SOURCES) >= 200
    long: list[str] = []
    for path in SOURCES:
        lines = path.read_text("utf-8").count("\n")
        if lines > 400:
            long.append(f"{path.relative_to(ROOT)}: {lines} lines")
        for node in functions_of(path):
            limit = 130 if any("triton.jit" in ast.unparse(each) for each in node.decorator_list) else 70
            if (node.end_lineno or 0) - node.lineno > limit:
                long.append(f"{path.relative_to(ROOT)}: {node.name}")
    assert long == []
