"""The input line: history file and completion."""

from __future__ import annotations

import stat
from pathlib import Path
from typing import Any

import pytest
from glm_frontend_cli._commands import COMMANDS
from glm_frontend_cli._prompt import CommandCompleter, QuestionHistory, open_history
from glm_frontend_cli._texts import Texts
from prompt_toolkit.completion import CompleteEvent
from prompt_toolkit.document import Document
from prompt_toolkit.history import InMemoryHistory


@pytest.fixture
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The directory that platformdirs gives."""
    monkeypatch.setattr("platformdirs.user_state_path", lambda name: tmp_path / name)
    return tmp_path


def completed(typed: Any, adapters: tuple[str, ...] = ("law", "poetry")) -> list[str]:
    """What completion offers after ``typed``."""
    completer = CommandCompleter(lambda: adapters, Texts("en"))
    return [item.text for item in completer.get_completions(Document(typed), CompleteEvent())]


@pytest.mark.parametrize(
    ("typed", "offered"),
    [
        ("/re", ["regenerate"]),
        ("/sa", ["save", "save!"]),
        ("/q", ["quit"]),
        ("/", [command.name for command in COMMANDS]),
        ("/copy ", ["code"]),
        ("/set do_sample ", ["true", "false", "default"]),
        ("/adapter ", ["law", "poetry", "off", "add", "remove"]),
        ("/adapter remove ", ["law", "poetry"]),
        ("/adapter remove p", ["poetry"]),
        ("/adapter remove law x", []),
        ("/adapter p", ["poetry"]),
        ("/set temp", ["temperature"]),
        ("/set temperature d", ["default"]),
        ("/system o", ["off"]),
        ("/info ", []),
        ("/adapter law x", []),
        ("hello /re", []),
        ("hello", []),
    ],
)
def test_completion_offers_what_may_follow(typed: str, offered: Any) -> None:
    """Commands, adapters, settings; nothing inside ordinary text."""
    assert completed(typed) == offered


def test_completion_of_files(tmp_path: Path) -> None:
    """/save, /save!, /load and /file complete file names."""
    (tmp_path / "chat.json").touch()
    for command in ("/load", "/save", "/save!", "/file"):
        assert completed(f"{command} {tmp_path}/ch") == ["at.json"]


def test_completion_of_an_adapters_directory(tmp_path: Path) -> None:
    """/adapter add completes directories, with a name in front of them or without."""
    (tmp_path / "law-1").mkdir()
    (tmp_path / "law.txt").touch()
    for typed in (f"{tmp_path}/la", f"new={tmp_path}/la"):
        assert completed(f"/adapter add {typed}") == ["w-1"]


def test_completion_follows_adapters_that_come_and_go() -> None:
    """Each completion asks anew which there are."""
    names = ["law"]
    completer = CommandCompleter(lambda: tuple(names), Texts("en"))

    def offered() -> list[str]:
        return [
            item.text for item in completer.get_completions(Document("/adapter remove "), CompleteEvent())
        ]

    assert offered() == ["law"]
    names.append("poetry")
    assert offered() == ["law", "poetry"]


def test_history_file_is_private_and_keeps_lines(state: Path, say: Texts) -> None:
    """Questions, several lines included, are there the next time, for their owner only."""
    notices: list[str] = []
    history = open_history(say, notices.append, keep=True)
    history.store_string("第一行\n第二行\x1b")
    path = state / "glm" / "cli_history"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert list(open_history(say, notices.append, keep=True).load_history_strings()) == ["第一行\n第二行"]
    assert notices == []


def test_unwritable_history_falls_back_to_memory(state: Path, say: Texts) -> None:
    """One notice, and the chat goes on."""
    (state / "glm").write_text("a file where the directory should be")
    notices: list[str] = []
    history = open_history(say, notices.append, keep=True)
    assert isinstance(history, InMemoryHistory)
    assert len(notices) == 1
    assert notices[0].startswith("Cannot write the history file")


def test_no_history_leaves_no_file(state: Path, say: Texts) -> None:
    """The option is obeyed to the letter."""
    assert isinstance(open_history(say, pytest.fail, keep=False), InMemoryHistory)
    assert list(state.iterdir()) == []


def test_history_that_cannot_be_written_later_is_no_error(tmp_path: Path) -> None:
    """A disk that fills up does not end the chat."""
    QuestionHistory(str(tmp_path / "gone" / "file")).store_string("q")
