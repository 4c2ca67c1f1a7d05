"""Files that the user names: conversations, and texts to ask about."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from glm_core import ConfigError
from glm_core.cleaning import clean_text
from glm_core.conversation import MAX_FILE_BYTES, Conversation, parse_conversation, to_json, to_markdown

from ._texts import Texts

MAX_TEXT_BYTES = 1_000_000


def parse_path(argument: str) -> Path:
    """Return the file that was typed: quotes around it dropped, ``~`` expanded."""
    if len(argument) > 1 and argument[0] == argument[-1] and argument[0] in "'\"":
        argument = argument[1:-1]
    try:
        return Path(argument).expanduser()
    except RuntimeError:  # no such user
        return Path(argument)


def save(conversation: Conversation, path: Path, say: Texts) -> None:
    """Write ``path`` whole or not at all; Markdown if its name ends in ``.md``, JSON otherwise.

    Raises:
        ConfigError: the file cannot be written.
    """
    as_markdown = path.suffix.lower() == ".md"
    text = to_markdown(conversation, say.language) if as_markdown else to_json(conversation)
    target = path.resolve()  # what a link points to, not the link
    try:
        descriptor, temporary = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name[:50]}.")
        try:
            with open(descriptor, "w", encoding="utf-8", newline="\n") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, target)
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise
    except OSError as error:
        raise ConfigError(say("cannot_write", path=path, reason=error.strerror or error)) from error


def load(path: Path, say: Texts) -> Conversation:
    """Read a conversation, as JSON or Markdown.

    Raises:
        ConfigError: the file is missing, too large, or not a conversation.
    """
    return parse_conversation(_read(path, say, MAX_FILE_BYTES), str(path), say.language)


def read_text(path: Path, say: Texts) -> str:
    """Return the text of a file; UTF-8, or else GB 18030, in which much Chinese text is kept.

    Raises:
        ConfigError: the file is missing, too large, empty or no text.
    """
    data = _read(path, say, MAX_TEXT_BYTES)
    if len(data) > MAX_TEXT_BYTES:
        raise ConfigError(say("too_large", path=path, limit=MAX_TEXT_BYTES // 1_000_000))
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError:
        text = data.decode("gb18030", errors="replace")
    if "\x00" in text or "\ufffd" in text:
        raise ConfigError(say("not_text", path=path))
    text = clean_text(text).strip("\n")
    if not text.strip():
        raise ConfigError(say("empty_file", path=path))
    return text


def _read(path: Path, say: Texts, limit: int) -> bytes:
    """Return the content of a file, of a larger one ``limit`` + 1 bytes, so that the caller can tell."""
    if not path.is_file():  # a pipe or device could be read for ever
        raise ConfigError(say("no_such_file", path=path))
    try:
        with path.open("rb") as file:
            return file.read(limit + 1)
    except OSError as error:
        raise ConfigError(say("cannot_read", path=path, reason=error.strerror or error)) from error
