"""Tests of the hook specifications, which are the first thing a plugin author reads."""

from __future__ import annotations

import ast
import inspect
import typing
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from glm_core import hookspecs, records

HOOKS: dict[str, Callable[..., Any]] = {
    name: value for name, value in vars(hookspecs).items() if hasattr(value, "glm_spec")
}
STAGES = {"load_model", "quantize", "place", "chat_stream", "train"}
FIRST_RESULT = STAGES | {"identify_model", "predict", "quantize_checkpoint", "measure_bandwidth"}
DESCRIBING = {f"describe_{what}" for what in ("backend", "frontend", "models", "runtime", "trainer")}


def test_hooks_are_exactly_these() -> None:
    """Stages and tools are answered by one plugin, five descriptions by all."""
    assert set(HOOKS) == FIRST_RESULT | DESCRIBING
    first = {name for name, hook in HOOKS.items() if vars(hook)["glm_spec"]["firstresult"]}
    assert first == FIRST_RESULT


@pytest.mark.parametrize("name", HOOKS)
def test_docstring_says_when_and_who_answers(name: str) -> None:
    """Each hook is documented in Google's style, with the two sections that only hooks have."""
    text = inspect.getdoc(HOOKS[name]) or ""
    assert "\nWhen:    " in text
    assert "\nAnswer:  " in text
    if name in FIRST_RESULT:
        assert "\nReturns:\n" in text
        assert "\nRaises:\n" in text
    for parameter in inspect.signature(HOOKS[name]).parameters:
        assert f"\n    {parameter}: " in text


@pytest.mark.parametrize("name", HOOKS)
def test_parameters_are_plain(name: str) -> None:
    """A default or a keyword-only parameter would be ignored or refused by some pluggy versions."""
    for parameter in inspect.signature(HOOKS[name]).parameters.values():
        assert parameter.kind is parameter.POSITIONAL_OR_KEYWORD
        assert parameter.default is parameter.empty
        assert parameter.annotation is not parameter.empty


@pytest.mark.parametrize("name", HOOKS)
def test_annotations_name_public_records(name: str) -> None:
    """Every type in a signature can be imported from `glm_core.records`."""
    hints = typing.get_type_hints(HOOKS[name], {**vars(records), "Iterator": Iterator})
    assert "return" in hints
    if name in FIRST_RESULT:  # may decline
        assert type(None) in typing.get_args(hints["return"])


def test_module_imports_only_pluggy_at_run_time() -> None:
    """Importing the specifications pulls in nothing that a plugin did not ask for."""
    tree = ast.parse(Path(hookspecs.__file__).read_text("utf-8"))
    imported = {
        alias.name if isinstance(node, ast.Import) else node.module
        for node in tree.body
        if isinstance(node, (ast.Import, ast.ImportFrom))
        for alias in node.names
    }
    assert imported == {"__future__", "typing", "pluggy"}
