"""The clipboard."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

import pytest
from glm_frontend_cli import _clipboard
from glm_frontend_cli._clipboard import Program, copy


@pytest.fixture
def program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A program that keeps what it read, in place of those that reach a screen."""
    script = tmp_path / "keep"
    script.write_text(f"#!/bin/sh\ncat > {tmp_path}/kept\ntest ! -e {tmp_path}/broken\n")
    script.chmod(0o755)
    monkeypatch.setattr(_clipboard, "PROGRAMS", (Program((str(script),), "DISPLAY", "utf-16"),))
    return tmp_path


def test_program_of_this_machine_takes_the_text(program: Path) -> None:
    """Where there is a screen; nothing is written to the terminal."""
    written: list[str] = []
    assert copy("你好", written.append, {"DISPLAY": ":0"})
    assert (program / "kept").read_bytes().decode("utf-16") == "你好"
    assert written == []


@pytest.mark.parametrize("environ", [{}, {"DISPLAY": ":0", "SSH_CONNECTION": "a b c d"}])
def test_terminal_is_asked_where_no_program_can(program: Path, environ: dict[str, Any]) -> None:
    """Without a screen, and over SSH, where the screen is elsewhere."""
    written: list[str] = []
    assert not copy("你好", written.append, environ)
    assert not (program / "kept").exists()
    (sequence,) = written
    assert sequence.startswith("\x1b]52;c;")
    assert sequence.endswith("\x07")
    assert base64.b64decode(sequence[7:-1]).decode() == "你好"


@pytest.mark.parametrize("command", ["failing", "missing"])
def test_program_that_fails_is_as_good_as_none(
    program: Path, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    """The terminal is asked instead."""
    (program / "broken").touch()
    if command == "missing":
        (program / "keep").unlink()
    written: list[str] = []
    assert not copy("x", written.append, {"DISPLAY": ":0"})
    assert len(written) == 1
