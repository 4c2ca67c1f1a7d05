"""Conversations as files."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from glm_frontend_cli._files import load, parse_path, read_text, save
from glm_frontend_cli._texts import Texts

from glm_core import ConfigError, Message, Sampling, ToolCall
from glm_core.conversation import MAX_FILE_BYTES, Conversation, Turn

FULL = Conversation(
    turns=[
        Turn("你好", "您好！\n```python\nprint(1)\n```"),
        Turn(
            "q2",
            "",
            (Message("assistant", "", (ToolCall("c", "f"),)), Message("tool", "x", tool_call_id="c")),
        ),
    ],
    system="简短回答",
    adapter="law",
    sampling=Sampling(temperature=0.5, do_sample=False),
    seed=7,
)


@pytest.mark.parametrize("name", ["a.json", "a", "a.md", "a.MD"])
def test_saved_conversation_loads_as_it_was(tmp_path: Path, say: Texts, name: str) -> None:
    """As JSON, or as Markdown where the name ends so."""
    save(FULL, tmp_path / name, say)
    assert load(tmp_path / name, say) == FULL


def test_saving_as_markdown_writes_headings_in_the_users_language(tmp_path: Path, say: Texts) -> None:
    """A name ending in .md gives a document to read; another JSON."""
    save(FULL, tmp_path / "a.MD", say)
    save(FULL, tmp_path / "b.md", Texts("zh"))
    save(FULL, tmp_path / "c.txt", say)
    assert "## User <!--" in (tmp_path / "a.MD").read_text(encoding="utf-8")
    assert "## 用户 <!--" in (tmp_path / "b.md").read_text(encoding="utf-8")
    assert (tmp_path / "c.txt").read_text(encoding="utf-8").startswith("{")


def test_failed_save_leaves_the_old_file_and_no_litter(
    tmp_path: Path, say: Texts, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A disk that fills up while saving costs nothing that was there."""
    target = tmp_path / "a.json"
    target.write_text("old")

    def full(descriptor: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(ConfigError, match="Cannot write .*a.json: No space left"):
        save(FULL, target, say)
    assert target.read_text() == "old"
    assert list(tmp_path.iterdir()) == [target]


def test_saving_where_one_may_not_is_one_sentence(tmp_path: Path, say: Texts) -> None:
    """A directory that does not exist is reported with its reason."""
    with pytest.raises(ConfigError, match="No such file"):
        save(FULL, tmp_path / "none" / "a.json", say)


def test_saving_through_a_link_keeps_the_link(tmp_path: Path, say: Texts) -> None:
    """A link to a file goes on pointing there."""
    real = tmp_path / "real.json"
    real.write_text("old")
    link = tmp_path / "link.json"
    link.symlink_to(real)
    save(FULL, link, say)
    assert link.is_symlink()
    assert load(real, say) == FULL


@pytest.mark.parametrize("data", [b"{", b"\xff\xfe", b"# Notes", b"{}"])
def test_file_that_is_no_conversation_is_refused_by_name(tmp_path: Path, say: Texts, data: bytes) -> None:
    """The sentence says which file; what is wrong with it is the core's to tell."""
    path = tmp_path / "bad.json"
    path.write_bytes(data)
    with pytest.raises(ConfigError, match="bad.json"):
        load(path, say)
    with pytest.raises(ConfigError, match="[\u4e00-\u9fff]"):
        load(path, Texts("zh"))


def test_missing_files_and_directories_are_refused(tmp_path: Path, say: Texts) -> None:
    """Only a regular file is opened."""
    for path in (tmp_path / "none.json", tmp_path):
        with pytest.raises(ConfigError, match="There is no file"):
            load(path, say)


def test_too_large_file_is_refused(tmp_path: Path, say: Texts) -> None:
    """A file beyond the limit is not read into memory."""
    path = tmp_path / "large.json"
    with path.open("wb") as file:
        file.truncate(MAX_FILE_BYTES + 1)
    with pytest.raises(ConfigError, match="larger than 10 MB"):
        load(path, say)


def test_typed_paths_lose_quotes_and_tilde(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What people type for a file is understood."""
    monkeypatch.setenv("HOME", str(tmp_path))
    assert parse_path("'~/my chat.json'") == tmp_path / "my chat.json"
    assert parse_path("plain.json").name == "plain.json"


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"\x89PNG\x00\x00", "is not a text file"),
        (b"abc\xff\xff\xff", "is not a text file"),
        (b" \n", "is empty"),
        (b"x" * 1_000_001, "is larger than 1 MB"),
    ],
)
def test_file_that_is_no_text_is_refused(tmp_path: Path, say: Texts, data: bytes, message: str) -> None:
    """Pictures, empty and huge files are not sent to a model."""
    path = tmp_path / "file"
    path.write_bytes(data)
    with pytest.raises(ConfigError, match=message):
        read_text(path, say)


def test_text_file_is_read_cleaned(tmp_path: Path, say: Texts) -> None:
    """Line ends are one character, a byte order mark and what terminals obey are gone."""
    path = tmp_path / "file"
    path.write_bytes(b"\xef\xbb\xbf\r\na\r\n\x1b[2Jb\r\n\r\n")
    assert read_text(path, say) == "a\n[2Jb"
