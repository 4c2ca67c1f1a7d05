"""Conventions that no linter checks."""

from __future__ import annotations

import ast
from pathlib import Path

ROOT = Path(__file__).parent.parent
TESTS = sorted(Path(__file__).parent.rglob("test_*.py"))
SOURCES = sorted([*(ROOT / "glm_core").rglob("*.py"), *ROOT.glob("plugins/*/src/**/*.py")])


def functions_of(path: Path) -> list[ast.FunctionDef | ast.AsyncFunctionDef]:
    """Return every function of a module, methods and nested ones as well."""
    tree = ast.parse(path.read_text("utf-8"))
    return [node for node in ast.walk(tree) if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))]


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


def test_modules_and_functions_stay_small_enough_to_hold() -> None:
    """No module of ours has more than 400 lines, no function more than 60, the core less than 6,000."""
    lengths = {path: path.read_text("utf-8").count("\n") for path in SOURCES}
    core = sum(lines for path, lines in lengths.items() if path.is_relative_to(ROOT / "glm_core"))
    long = [f"{path.relative_to(ROOT)}: {lines} lines" for path, lines in lengths.items() if lines > 400]
    long += [
        f"{path.relative_to(ROOT)}: {function.name}"
        for path in SOURCES
        for function in functions_of(path)
        if (function.end_lineno or 0) - function.lineno + 1 > 60
    ]
    long += [f"glm_core: {core} lines"] * (core >= 6000)
    assert len(lengths) >= 200
    assert core > 3000
    assert long == []
