"""Benchmarks run rarely, so that what they import exists is checked here."""

from __future__ import annotations

import ast
import importlib
from pathlib import Path

BENCHMARKS = sorted((Path(__file__).parent.parent / "benchmarks").glob("*.py"))


def test_every_name_that_a_benchmark_imports_from_the_project_exists() -> None:
    """No benchmark imports a module or a name of ours that has moved or gone."""
    imported = [(path.name, module, name) for path in BENCHMARKS for module, name in _imports_of_ours(path)]
    assert len(imported) > 50
    assert not [one for one in imported if not _exists(*one[1:])]


def _imports_of_ours(path: Path) -> list[tuple[str, str]]:
    return [
        (node.module, alias.name)
        for node in ast.walk(ast.parse(path.read_text("utf-8")))
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("glm_") and node.module
        for alias in node.names
    ]


def _exists(module: str, name: str) -> bool:
    try:
        if hasattr(importlib.import_module(module), name):
            return True
        importlib.import_module(f"{module}.{name}")
    except ModuleNotFoundError:
        return False
    return True
