"""What holds for every example: built on public names, small, a complete wheel."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import glm_core

EXAMPLES = sorted(path.parent for path in (Path(__file__).parents[2] / "examples").glob("*/pyproject.toml"))
PUBLIC_MODULES = (
    *("glm_core", "glm_core.records", "glm_core.errors"),
    *("glm_core.conversation", "glm_core.listening"),
)
MOST_LINES = 160
"""Of an example, and of each module of one that has a longer story to tell."""
MOST_LINES_OF = {"glm_runtime_llamacpp": 660}


def sources(project: Path) -> list[Path]:
    """The modules of a project's package."""
    return sorted((project / "src").rglob("*.py"))


def code_lines(path: Path) -> int:
    """Lines that are neither empty, comments, docstrings nor imports."""
    text = path.read_text("utf-8")
    tree = ast.parse(text)
    others: set[int] = set()
    for node in ast.walk(tree):
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            others.update(range(node.lineno, (node.end_lineno or 0) + 1))
        elif isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef)) and ast.get_docstring(node):
            others.update(range(node.body[0].lineno, (node.body[0].end_lineno or 0) + 1))
    return sum(
        bool(line.strip()) and not line.strip().startswith("#") and number not in others
        for number, line in enumerate(text.splitlines(), 1)
    )


def test_the_examples_are_found() -> None:
    """Two runtimes that need no torch, and a frontend that is not one of ours."""
    assert [project.name for project in EXAMPLES] == [
        "glm_frontend_jsonl",
        "glm_remote",
        "glm_runtime_llamacpp",
    ]


@pytest.mark.parametrize("project", EXAMPLES, ids=lambda project: project.name)
def test_example_can_be_read_in_one_sitting(project: Path) -> None:
    """A package is at most so many lines of code, and so is each of its modules."""
    lines = [code_lines(path) for path in sources(project)]
    assert max(lines) <= MOST_LINES
    assert sum(lines) <= MOST_LINES_OF.get(project.name, MOST_LINES)


@pytest.mark.parametrize("project", EXAMPLES, ids=lambda project: project.name)
def test_example_uses_public_names_only(project: Path) -> None:
    """From the core it takes what is promised to stay, and nothing heavy from elsewhere."""
    taken = 0
    for path in sources(project):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("glm_"):
                names = [str(node.module)]
                if node.module == "glm_core":
                    assert {alias.name for alias in node.names} <= {*glm_core.__all__, "records"}
            for name in names:
                if name.startswith("glm_core"):
                    assert name in PUBLIC_MODULES
                    taken += 1
                assert name.partition(".")[0] not in ("torch", "numpy", "glm_runtime_torch")
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
                assert node.value.id != "glm_core" or node.attr in glm_core.__all__
    assert taken >= 3


def test_wheels_are_complete(example_wheels: list[Path]) -> None:
    """Package, type marker, entry point; and nothing of the tests."""
    assert len(example_wheels) == len(EXAMPLES)
    for wheel in example_wheels:
        package = wheel.name.split("-")[0]
        names = zipfile.ZipFile(wheel).namelist()
        assert {f"{package}/plugin.py", f"{package}/py.typed"} <= set(names)
        assert any(name.endswith("entry_points.txt") for name in names)
        assert not any("test" in name for name in names)


def test_examples_are_typed_against_the_core(tmp_path: Path, mypy_cache: Path) -> None:
    """``mypy --strict`` has nothing to say about what is built on the core's own types."""
    packages = [argument for project in EXAMPLES for argument in ("-p", project.name)]
    done = subprocess.run(
        [sys.executable, "-m", "mypy", "--strict", f"--cache-dir={mypy_cache}", *packages],
        env={**os.environ, "MYPYPATH": os.pathsep.join(str(project / "src") for project in EXAMPLES)},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert done.returncode == 0, done.stdout
