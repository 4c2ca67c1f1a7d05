"""Tests of commands that other distributions bring, such as ``glm plugin``."""

from __future__ import annotations

from importlib.metadata import EntryPoint

import pytest

from glm_core import cli

INSTALL = 'pip install "glm-core[testing]"'


def installed(monkeypatch: pytest.MonkeyPatch, *points: str) -> None:
    """Let the command see these packages, by what their entry point names."""
    found = [EntryPoint("plugin", point, cli.ENTRY_POINT_GROUP) for point in points]
    monkeypatch.setattr("glm_core.candidates.metadata.entry_points", lambda **selection: found)


def test_command_of_the_package_gets_the_arguments(monkeypatch: pytest.MonkeyPatch) -> None:
    """And its exit status is the command's."""
    installed(monkeypatch, "builtins:len")
    assert cli.main(["plugin", "new", "backend", "npu"]) == 3


def test_without_the_package_one_sentence_says_how_to_get_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Status 2, and a line that can be pasted."""
    installed(monkeypatch)
    assert cli.main(["plugin", "new", "backend", "npu"]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    (line,) = printed.err.splitlines()
    assert INSTALL in line


@pytest.mark.parametrize("arguments", [["plugin", "--help"], ["plugin", "new", "-h"], ["help", "plugin"]])
def test_help_without_the_package_is_no_error(
    arguments: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """It says what is missing."""
    installed(monkeypatch)
    assert cli.main(arguments) == 0
    printed = capsys.readouterr()
    assert INSTALL in printed.out
    assert printed.err == ""


def test_broken_package_is_told_from_a_missing_one(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The reason is there, and no traceback."""
    installed(monkeypatch, "no_such_module_of_the_tests:run")
    assert cli.main(["plugin", "new", "backend", "npu"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "broken" in line
    assert "no_such_module_of_the_tests" in line
