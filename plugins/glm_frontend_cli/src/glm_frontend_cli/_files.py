"""Conversations as files: JSON to go on with, Markdown to read."""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path
from typing import Any

from glm_core import ConfigError, Message, RequestError

from ._cleaning import clean
from ._conversation import SETTINGS, Conversation, Turn
from ._texts import Texts

VERSION = 1
MAX_BYTES = 10_000_000
MAX_TEXT_BYTES = 1_000_000


def path_of(argument: str) -> Path:
    """The file that was typed: quotes around it dropped, ``~`` expanded."""
    if len(argument) > 1 and argument[0] == argument[-1] and argument[0] in "'\"":
        argument = argument[1:-1]
    try:
        return Path(argument).expanduser()
    except RuntimeError:  # no such user
        return Path(argument)


def save(conversation: Conversation, path: Path, model: str, say: Texts) -> None:
    """Write ``path`` whole or not at all; Markdown if its name ends in ``.md``, JSON otherwise.

    Raises:
        ConfigError: the file cannot be written.
    """
    as_markdown = path.suffix.lower() == ".md"
    text = _to_markdown(conversation, model, say) if as_markdown else _to_json(conversation, model)
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
    """Read a conversation that `save` wrote as JSON.

    Raises:
        ConfigError: the file is missing, too large, not JSON, or not a conversation.
    """
    try:
        document = json.loads(_read(path, say, MAX_BYTES).decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:  # not UTF-8, not JSON, a number or nesting beyond limits
        raise ConfigError(say("not_json", path=path, reason=error)) from error
    if not isinstance(document, dict) or "messages" not in document:
        raise ConfigError(say("not_a_conversation", path=path))
    if document.get("version") != VERSION:
        raise ConfigError(
            say("wrong_version", path=path, version=repr(document.get("version")), expected=VERSION)
        )
    conversation = Conversation(
        system=_text(document, "system", path, say), adapter=_text(document, "adapter", path, say)
    )
    _load_messages(document["messages"], conversation, path, say)
    _load_settings(document.get("settings"), conversation, path, say)
    return conversation


def read_text(path: Path, say: Texts) -> str:
    """What a text file says; UTF-8, or else GB 18030, in which much Chinese text is kept.

    Raises:
        ConfigError: the file is missing, too large, empty or no text.
    """
    data = _read(path, say, MAX_TEXT_BYTES)
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError:
        text = data.decode("gb18030", errors="replace")
    if "\x00" in text or "\ufffd" in text:
        raise ConfigError(say("not_text", path=path))
    text = clean(text.replace("\r\n", "\n")).strip("\n")
    if not text.strip():
        raise ConfigError(say("empty_file", path=path))
    return text


def _read(path: Path, say: Texts, limit: int) -> bytes:
    if not path.is_file():  # a pipe or device could be read for ever
        raise ConfigError(say("no_such_file", path=path))
    try:
        with path.open("rb") as file:
            data = file.read(limit + 1)
    except OSError as error:
        raise ConfigError(say("cannot_read", path=path, reason=error.strerror or error)) from error
    if len(data) > limit:
        raise ConfigError(say("too_large", path=path, limit=limit // 1_000_000))
    return data


def _text(document: dict[str, Any], key: str, path: Path, say: Texts) -> str | None:
    value = document.get(key)
    if value is not None and not isinstance(value, str):
        raise ConfigError(say("field_not_text", path=path, field=key))
    return clean(value) if value else None


def _load_messages(entries: object, conversation: Conversation, path: Path, say: Texts) -> None:
    if not isinstance(entries, list):
        raise ConfigError(say("messages_not_a_list", path=path))
    question: str | None = None
    for number, entry in enumerate(entries, start=1):
        try:
            message = Message(entry["role"], clean(entry["content"]))
        except (TypeError, KeyError, RequestError) as error:
            raise ConfigError(say("bad_message", path=path, number=number)) from error
        if message.role == "system" and number == 1:
            conversation.system = conversation.system or message.content
        elif message.role == "user" and question is None and message.content.strip():
            question = message.content
        elif message.role == "assistant" and question is not None:
            conversation.turns.append(Turn(question, message.content))
            question = None
        else:
            raise ConfigError(say("message_out_of_turn", path=path, number=number, role=message.role))
    conversation.unanswered = question


def _load_settings(settings: object, conversation: Conversation, path: Path, say: Texts) -> None:
    if settings is None:
        return
    if not isinstance(settings, dict):
        raise ConfigError(say("settings_not_a_table", path=path))
    for name, value in settings.items():
        if name not in SETTINGS:
            raise ConfigError(say("unknown_setting_in_file", path=path, name=repr(name)))
        try:
            conversation.change(name, value)
        except RequestError as error:
            raise ConfigError(say("bad_setting_in_file", path=path, reason=error)) from error


def _to_json(conversation: Conversation, model: str) -> str:
    messages = []
    for turn in conversation.turns:
        messages.append({"role": "user", "content": turn.question})
        messages.append({"role": "assistant", "content": turn.answer})
    document = {
        "version": VERSION,
        "model": model,
        "system": conversation.system,
        "adapter": conversation.adapter,
        "settings": conversation.changed_settings(),
        "messages": messages,
    }
    return json.dumps(document, ensure_ascii=False, indent=2) + "\n"


def _to_markdown(conversation: Conversation, model: str, say: Texts) -> str:
    parts = [f"# {say('markdown_title', model=model)}"]
    if conversation.system:
        parts += [f"## {say('role_system')}", conversation.system]
    for turn in conversation.turns:
        parts += [f"## {say('role_user')}", turn.question, f"## {say('role_assistant')}", turn.answer]
    return "\n\n".join(part.strip() for part in parts) + "\n"
