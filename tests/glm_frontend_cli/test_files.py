"""Conversations as files."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from glm_frontend_cli._conversation import Conversation, Turn
from glm_frontend_cli._files import MAX_BYTES, load, path_of, read_text, save
from glm_frontend_cli._texts import Texts

from glm_core import ConfigError, Sampling

FULL = Conversation(
    turns=[Turn("你好", "您好！\n```python\nprint(1)\n```"), Turn("q2", "")],
    system="简短回答",
    adapter="law",
    sampling=Sampling(temperature=0.5, do_sample=False),
    seed=7,
)


def written(path: Any, document: Any) -> Path:
    """A file with ``document`` as JSON."""
    path.write_text(json.dumps(document), encoding="utf-8")
    return path


def test_saved_conversation_loads_as_it_was(tmp_path: Path, say: Texts) -> None:
    """Turns, system prompt, adapter, settings and seed survive the round trip."""
    save(FULL, tmp_path / "a.json", "demo", say)
    assert load(tmp_path / "a.json", say) == FULL


def test_saved_file_is_readable_json_with_a_version(tmp_path: Path, say: Texts) -> None:
    """The format is plain: a version and messages with role and content, Chinese not escaped."""
    save(FULL, tmp_path / "a.json", "demo", say)
    text = (tmp_path / "a.json").read_text(encoding="utf-8")
    document = json.loads(text)
    assert document["version"] == 1
    assert document["messages"][0] == {"role": "user", "content": "你好"}
    assert "你好" in text


def test_saving_as_markdown_writes_headings(tmp_path: Path, say: Texts) -> None:
    """A name ending in .md gives a document to read."""
    save(FULL, tmp_path / "a.MD", "demo", say)
    text = (tmp_path / "a.MD").read_text(encoding="utf-8")
    assert text.startswith("# Conversation with demo\n\n## System prompt\n\n简短回答\n\n## User\n\n你好\n")


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
        save(FULL, target, "demo", say)
    assert target.read_text() == "old"
    assert list(tmp_path.iterdir()) == [target]


def test_saving_where_one_may_not_is_one_sentence(tmp_path: Path, say: Texts) -> None:
    """A directory that does not exist is reported with its reason."""
    with pytest.raises(ConfigError, match="Cannot write .*: No such file or directory"):
        save(FULL, tmp_path / "none" / "a.json", "demo", say)


def test_saving_through_a_link_keeps_the_link(tmp_path: Path, say: Texts) -> None:
    """A link to a file goes on pointing there."""
    real = tmp_path / "real.json"
    real.write_text("old")
    link = tmp_path / "link.json"
    link.symlink_to(real)
    save(FULL, link, "demo", say)
    assert link.is_symlink()
    assert load(real, say) == FULL


@pytest.mark.parametrize(
    ("document", "message"),
    [
        ([], "is no conversation"),
        ({"version": 1}, "has no messages"),
        ({"messages": []}, "format version None"),
        ({"version": 2, "messages": []}, "format version 2; this program reads version 1"),
        ({"version": 1, "messages": {}}, "messages must be a list"),
        ({"version": 1, "messages": ["x"]}, "message 1 must have a role"),
        ({"version": 1, "messages": [{"role": "user"}]}, "message 1 must have"),
        ({"version": 1, "messages": [{"role": "robot", "content": "x"}]}, "message 1 must have"),
        ({"version": 1, "messages": [{"role": "user", "content": 3}]}, "message 1 must have"),
        ({"version": 1, "messages": [{"role": [], "content": "x"}]}, "message 1 must have"),
        ({"version": 1, "messages": [{"role": "tool", "content": "x"}]}, "message 1 must have"),
        ({"version": 1, "messages": [{"role": "assistant", "content": None}]}, "message 1 must have"),
        (
            {"version": 1, "messages": [{"role": "assistant", "content": "x"}]},
            r"message 1 \(assistant\) is out",
        ),
        ({"version": 1, "messages": [{"role": "user", "content": " "}]}, r"message 1 \(user\) is out"),
        ({"version": 1, "messages": [], "system": 3}, "system must be text"),
        ({"version": 1, "messages": [], "adapter": []}, "adapter must be text"),
        ({"version": 1, "messages": [], "settings": 3}, "settings must be an object"),
        ({"version": 1, "messages": [], "settings": {"speed": 1}}, "no setting 'speed'"),
        ({"version": 1, "messages": [], "settings": {"top_p": 7}}, "top_p must be between 0 and 1, got 7"),
    ],
)
def test_wrong_shapes_are_refused_in_one_sentence(
    tmp_path: Path, say: Texts, document: dict[str, Any], message: str
) -> None:
    """Each way in which a file can be wrong has its own clear message."""
    with pytest.raises(ConfigError, match=message):
        load(written(tmp_path / "bad.json", document), say)


@pytest.mark.parametrize("data", [b"", b"{", b"\xff\xfe", b"[" * 100_000, b"1" * 10_000])
def test_files_that_are_not_json_are_refused(tmp_path: Path, say: Texts, data: bytes) -> None:
    """Neither bad UTF-8 nor absurd nesting or numbers get further than a sentence."""
    path = tmp_path / "bad.json"
    path.write_bytes(data)
    with pytest.raises(ConfigError, match=r"bad.json is (not JSON|no conversation)"):
        load(path, say)


def test_missing_files_and_directories_are_refused(tmp_path: Path, say: Texts) -> None:
    """Only a regular file is opened."""
    for path in (tmp_path / "none.json", tmp_path):
        with pytest.raises(ConfigError, match="There is no file"):
            load(path, say)


def test_too_large_file_is_refused(tmp_path: Path, say: Texts) -> None:
    """A file beyond the limit is not read into memory."""
    path = tmp_path / "large.json"
    with path.open("wb") as file:
        file.truncate(MAX_BYTES + 1)
    with pytest.raises(ConfigError, match="larger than 10 MB"):
        load(path, say)


def test_loaded_text_is_cleaned(tmp_path: Path, say: Texts) -> None:
    """Escape characters and lone surrogates from a file never reach the terminal."""
    messages = [{"role": "user", "content": "q\x1b[2J"}, {"role": "assistant", "content": "a\ud800\u202e"}]
    path = written(tmp_path / "a.json", {"version": 1, "messages": messages, "system": "s\x07"})
    loaded = load(path, say)
    assert loaded.turns == [Turn("q[2J", "a")]
    assert loaded.system == "s"


def test_open_question_and_system_message_load(tmp_path: Path, say: Texts) -> None:
    """A leading system message is the system prompt, a trailing question waits for its answer."""
    messages = [{"role": "system", "content": "s"}, {"role": "user", "content": "q"}]
    loaded = load(written(tmp_path / "a.json", {"version": 1, "messages": messages}), say)
    assert (loaded.system, loaded.unanswered, loaded.turns) == ("s", "q", [])


def test_typed_paths_lose_quotes_and_tilde(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What people type for a file is understood."""
    monkeypatch.setenv("HOME", str(tmp_path))
    assert path_of("'~/my chat.json'") == tmp_path / "my chat.json"
    assert path_of("plain.json").name == "plain.json"


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"\x89PNG\x00\x00", "is no text file"),
        (b"abc\xff\xff\xff", "is no text file"),
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
