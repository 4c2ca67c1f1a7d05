"""Conversations as text: JSON (the terminal chat reads it too) and Markdown, both to go on with.

In Markdown every message stands under a heading that ends in a mark, ``<!-- glm:user -->``, which
readers do not see. A line of a message that looks like such a heading gets a backslash in front.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from typing import Any, get_args

from glm_core import ConfigError, Message, RequestError
from glm_core.records import Role

from ._cleaning import clean
from ._conversation import Conversation, Settings, Turn
from ._texts import Texts

VERSION = 1
MAX_BYTES = 10_000_000
_SETTINGS = ("max_length", "top_p", "temperature")
_HEADING = re.compile(rf"## .* <!-- glm:({'|'.join(get_args(Role))}) -->")
_LIKE_HEADING = re.compile(r"(?m)^(\\*)(?=## .* <!-- glm:\w+ -->$)")
_FACTS = re.compile(r"<!-- glm-conversation (\{.*\}) -->")


def to_json(conversation: Conversation, settings: Settings, model: str) -> str:
    """The conversation as a JSON document."""
    messages = [
        {"role": role, "content": content}
        for turn in conversation.turns
        for role, content in (("user", turn.question), ("assistant", turn.answer))
    ]
    document = {**_facts(settings, model), "messages": messages}
    return json.dumps(document, ensure_ascii=False, indent=2) + "\n"


def to_markdown(conversation: Conversation, settings: Settings, model: str, say: Texts) -> str:
    """The conversation as Markdown."""
    facts = json.dumps(_facts(settings, model), ensure_ascii=False).replace(">", "\\u003e")
    parts = [f"# {say('markdown_title', model=clean(model))}\n\n<!-- glm-conversation {facts} -->\n"]
    for turn in conversation.turns:
        parts.append(_section("user", turn.question, say))
        parts.append(_section("assistant", turn.answer, say))
    return "\n".join(parts)


def from_bytes(data: bytes, info_adapters: Iterable[str], say: Texts) -> tuple[Conversation, Settings, str]:
    """Read what `to_json` or `to_markdown` (or the terminal chat) wrote.

    Args:
        data: the content of the file.
        info_adapters: names of the adapters that are loaded.
        say: the texts.

    Returns:
        The conversation, its settings, and the name of an adapter that it wants but is not loaded.

    Raises:
        ConfigError: it is too large, no text, or no conversation.
    """
    if len(data) > MAX_BYTES:
        raise ConfigError(say("too_large", limit=MAX_BYTES // 1_000_000))
    try:
        text = data.decode("utf-8-sig").replace("\r\n", "\n")
    except UnicodeDecodeError as error:
        raise ConfigError(say("not_text")) from error
    document = _from_markdown(text, say) if text.lstrip().startswith("#") else _from_json(text, say)
    if document.get("version") != VERSION:
        raise ConfigError(say("wrong_version", version=repr(document.get("version")), expected=VERSION))
    system, adapter = _text(document, "system", say), _text(document, "adapter", say)
    conversation, system_message = _read_messages(document["messages"], say)
    lost = adapter if adapter and adapter not in info_adapters else ""
    settings = _read_settings(document.get("settings") or {}, system or system_message, say)
    return conversation, _with_adapter(settings, None if lost else adapter or None), lost


def _facts(settings: Settings, model: str) -> dict[str, Any]:
    return {
        "version": VERSION,
        "model": model,
        "system": settings.system or None,
        "adapter": settings.adapter,
        "settings": {
            "max_length": int(settings.max_length) or None,
            "top_p": settings.top_p,
            "temperature": settings.temperature,
        },
    }


def _section(role: Role, content: str, say: Texts) -> str:
    return f"## {say(f'role_{role}')} <!-- glm:{role} -->\n\n{_LIKE_HEADING.sub(_one_more, content)}\n"


def _one_more(match: re.Match[str]) -> str:
    return match[1] + "\\"


def _from_json(text: str, say: Texts) -> dict[str, Any]:
    try:
        document = json.loads(text)
    except (json.JSONDecodeError, RecursionError) as error:
        raise ConfigError(say("not_json", reason=error)) from error
    if not isinstance(document, dict) or "messages" not in document:
        raise ConfigError(say("not_a_conversation"))
    return document


def _from_markdown(text: str, say: Texts) -> dict[str, Any]:
    facts = _FACTS.search(text)
    if facts is None:
        raise ConfigError(say("not_our_markdown"))
    document = _from_json(facts[1][:-1] + ', "messages": []}', say)
    sections: list[tuple[str, list[str]]] = []
    for line in text[facts.end() :].split("\n"):
        heading = _HEADING.fullmatch(line)
        if heading:
            sections.append((heading[1], []))
        elif sections:
            sections[-1][1].append(_LIKE_HEADING.sub(_one_less, line))
    document["messages"] = [
        {"role": role, "content": "\n".join(_without_frame(lines))} for role, lines in sections
    ]
    return document


def _one_less(match: re.Match[str]) -> str:
    return match[1][:-1]


def _without_frame(lines: list[str]) -> list[str]:
    """Drop the one empty line after the heading, and the two line ends before the next one."""
    if lines and not lines[0]:
        lines = lines[1:]
    if lines and not lines[-1]:
        lines = lines[:-1]
    return lines


def _text(document: Mapping[str, Any], key: str, say: Texts) -> str:
    value = document.get(key)
    if value is not None and not isinstance(value, str):
        raise ConfigError(say("field_not_text", field=key))
    return clean(value or "")


def _read_messages(entries: object, say: Texts) -> tuple[Conversation, str]:
    """The conversation, and the text of a system message in front; an unanswered last question is dropped."""
    if not isinstance(entries, list):
        raise ConfigError(say("messages_not_a_list"))
    conversation, system = Conversation(), ""
    question: str | None = None
    for number, entry in enumerate(entries, start=1):
        try:
            message = Message(entry["role"], clean(entry["content"]))
        except (TypeError, KeyError, AttributeError, RequestError) as error:
            raise ConfigError(say("bad_message", number=number)) from error
        if message.role == "system" and number == 1:
            system = message.content
        elif message.role == "user" and question is None and message.content.strip():
            question = message.content
        elif message.role == "assistant" and question is not None:
            conversation.turns.append(Turn(question, message.content))
            question = None
        else:
            raise ConfigError(say("message_out_of_turn", number=number, role=message.role))
    return conversation, system


def _read_settings(values: object, system: str, say: Texts) -> Settings:
    if not isinstance(values, dict):
        raise ConfigError(say("bad_settings", reason=repr(values)))
    known = {name: values[name] for name in _SETTINGS if values.get(name) is not None}
    settings = Settings(system=system, **known)
    try:
        _ = settings.sampling  # for its check
    except (RequestError, TypeError, ValueError) as error:
        raise ConfigError(say("bad_settings", reason=error)) from error
    return settings


def _with_adapter(settings: Settings, adapter: str | None) -> Settings:
    return Settings(settings.system, adapter, settings.max_length, settings.top_p, settings.temperature)
