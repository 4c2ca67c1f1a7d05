"""Whole conversations as text and back.

JSON is an object with ``version``, ``title``, ``model``, ``system``, ``adapter``, ``settings`` and
``messages``. Keys that are not known are ignored, so that a later version may add some; an unknown
setting is refused, since leaving it out would give other answers than the file says.

In Markdown every message stands under a heading that ends in a mark, ``<!-- glm:user -->``, which
readers do not see; what else the JSON has stands in such a mark too. A line of a message that looks
like such a heading gets a backslash in front.
"""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from ..cleaning import clean_text
from ..errors import ConfigError, RequestError
from ..language import Language
from ..messages import ROLES, Message
from ._messages import dump_message, parse_message
from ._state import SETTINGS, Conversation, Turn, list_turn_messages
from ._texts import FileTexts

FORMAT_VERSION = 1  # a file of another version is refused: a guess could change what was said
MAX_FILE_BYTES = 10_000_000  # a novel has one megabyte; what is larger is no conversation

Say = Callable[..., str]
_HEADING = re.compile(rf"## .* <!-- glm:({'|'.join(ROLES)})( \{{.*\}})? -->")
_LIKE_HEADING = re.compile(r"(?m)^(\\*)(?=## .* <!-- glm:\w+( \{.*\})? -->$)")
_FACTS = re.compile(r"(?m)^<!-- glm-conversation (\{.*\}) -->$")


def to_json(conversation: Conversation) -> str:
    """Return the conversation as a JSON document."""
    document = {
        **_collect_facts(conversation),
        "system": clean_text(conversation.system) or None,
        "messages": [dump_message(message) for message in _list_written_messages(conversation)],
    }
    return json.dumps(document, ensure_ascii=False, indent=2) + "\n"


def to_markdown(conversation: Conversation, language: Language = "en") -> str:
    """Return the conversation as Markdown with headings in ``language``; any language can be read again."""
    say: Say = FileTexts(language)
    heading = conversation.title or say("heading", model=conversation.model)
    parts = [
        f"# {' '.join(clean_text(heading).split())}\n\n"
        f"<!-- glm-conversation {_dump_for_mark(_collect_facts(conversation))} -->\n"
    ]
    if conversation.system.strip():
        parts.append(_write_section(Message("system", clean_text(conversation.system)), say))
    parts += [_write_section(message, say) for message in _list_written_messages(conversation)]
    return "\n".join(parts)


def parse_conversation(data: bytes, name: str, language: Language = "en") -> Conversation:
    """Read what `to_json` or `to_markdown` wrote, and what earlier versions of the frontends did.

    Text is cleaned of control characters. A question at the end without an answer is `unanswered`.

    Args:
        data: the content of the file; nothing beyond `MAX_FILE_BYTES` + 1 need be passed.
        name: what errors call the file.
        language: of the errors.

    Raises:
        ConfigError: the file is too large, no text, or no conversation; the message names the file and
            the line or field.
    """
    say: Say = partial(FileTexts(language), file=name)
    if len(data) > MAX_FILE_BYTES:
        raise ConfigError(say("too_large", limit=MAX_FILE_BYTES // 1_000_000))
    try:
        text = data.decode("utf-8-sig").replace("\r\n", "\n")
    except UnicodeDecodeError as error:
        raise ConfigError(say("not_text", position=error.start)) from error
    facts = _FACTS.search(text)  # never in JSON, where a line begins with a quotation mark or a bracket
    if facts is not None:
        document, places = _read_markdown(text, facts, say)
    elif text.lstrip().startswith("#"):
        raise ConfigError(say("not_our_markdown"))
    else:
        document, places = _read_json(text, say), ()
    return _read_document(document, places, say)


def _list_written_messages(conversation: Conversation) -> list[Message]:
    messages = [message for turn in conversation.turns for message in list_turn_messages(turn)]
    if conversation.unanswered is not None:
        messages.append(Message("user", conversation.unanswered))
    # Cleaned as at reading: a carriage return, which reading drops, could hide what looks like a heading.
    return [dataclasses.replace(each, content=clean_text(each.content)) for each in messages]


def _collect_facts(conversation: Conversation) -> dict[str, Any]:
    return {
        "version": FORMAT_VERSION,
        "title": clean_text(conversation.title),
        "model": clean_text(conversation.model),
        "adapter": conversation.adapter,
        "settings": conversation.get_changed_settings(),
    }


def _dump_for_mark(value: Any) -> str:
    """Return JSON of one line that cannot end the comment around it."""
    return json.dumps(value, ensure_ascii=False).replace(">", "\\u003e")


def _write_section(message: Message, say: Say) -> str:
    value = dump_message(message)
    more = {key: value[key] for key in ("tool_calls", "tool_call_id") if key in value}
    mark = f"glm:{message.role} {_dump_for_mark(more)}" if more else f"glm:{message.role}"
    names = ", ".join(call.name for call in message.tool_calls)
    label = say("calls", names=names) if names else say(message.role)
    content = _LIKE_HEADING.sub(r"\1\\", message.content)
    return f"## {label} <!-- {mark} -->\n\n{content}\n"


def _read_json(text: str, say: Say) -> dict[str, Any]:
    try:
        document = json.loads(text)
    except (ValueError, RecursionError) as error:  # no JSON, or a number or nesting beyond limits
        raise ConfigError(say("not_json", reason=error)) from error
    if not isinstance(document, dict) or "messages" not in document:
        raise ConfigError(say("no_messages"))
    return document


def _read_markdown(text: str, facts: re.Match[str], say: Say) -> tuple[dict[str, Any], Sequence[int]]:
    """Return the document, and the line of each message's heading."""
    first = text.count("\n", 0, facts.start()) + 1
    document = _read_mark(facts[1], first, say)
    sections: list[tuple[dict[str, Any], list[str]]] = []
    places: list[int] = []
    for number, line in enumerate(text[facts.end() :].split("\n"), start=first):
        heading = _HEADING.fullmatch(line)
        if heading:
            more = _read_mark(heading[2], number, say) if heading[2] else {}
            sections.append(({**more, "role": heading[1]}, []))
            places.append(number)
        elif sections:
            sections[-1][1].append(_LIKE_HEADING.sub(lambda match: match[1][:-1], line))
    document["messages"] = [
        {**message, "content": "\n".join(_strip_frame(lines))} for message, lines in sections
    ]
    return document, places


def _read_mark(text: str, line: int, say: Say) -> dict[str, Any]:
    try:
        value: dict[str, Any] = json.loads(text)  # the mark's form has made sure of the braces
    except (ValueError, RecursionError) as error:
        raise ConfigError(say("bad_mark", line=line, reason=error)) from error
    return value


def _strip_frame(lines: list[str]) -> list[str]:
    """Drop the one empty line after the heading, and the one before the next heading."""
    if lines and not lines[0]:
        lines = lines[1:]
    return lines[:-1] if lines and not lines[-1] else lines


def _read_document(document: dict[str, Any], places: Sequence[int], say: Say) -> Conversation:
    if document.get("version") != FORMAT_VERSION:
        version = repr(document.get("version"))
        raise ConfigError(say("wrong_version", version=version, expected=FORMAT_VERSION))
    title, model, system, adapter = (
        _read_text(document, key, say) for key in ("title", "model", "system", "adapter")
    )
    conversation = Conversation(system=system, adapter=adapter or None, title=title, model=model)
    settings = document.get("settings") or {}
    if not isinstance(settings, dict):
        raise ConfigError(say("wrong_type", field="settings", expected=say("object")))
    for name, value in settings.items():
        if name not in SETTINGS:
            raise ConfigError(say("unknown_setting", name=repr(name), names=", ".join(SETTINGS)))
        try:
            conversation.change(name, value)
        except RequestError as error:
            raise ConfigError(say("bad_setting", reason=error)) from error
    _read_messages(document["messages"], places, conversation, say)
    return conversation


def _read_text(document: dict[str, Any], key: str, say: Say) -> str:
    value = document.get(key)
    if value is not None and not isinstance(value, str):
        raise ConfigError(say("wrong_type", field=key, expected=say("text")))
    return clean_text(value or "")


def _read_messages(entries: object, places: Sequence[int], conversation: Conversation, say: Say) -> None:
    """Add the messages' turns to ``conversation``; system messages are allowed at the beginning only."""
    if not isinstance(entries, list):
        raise ConfigError(say("wrong_type", field="messages", expected=say("list")))
    instructions: list[str] = []
    question: str | None = None
    steps: list[Message] = []
    waiting: set[str] = set()  # calls of tools whose result must come next
    for number, entry in enumerate(entries, start=1):
        line = places[number - 1] if places else 0
        where = say("message_at_line" if places else "message", number=number, line=line)
        message = _read_message(entry, where, say)
        if message.role == "system" and question is None and not conversation.turns:
            instructions.append(message.content)
        elif message.role == "tool" and message.tool_call_id in waiting:
            waiting.remove(message.tool_call_id)
            steps.append(message)
        elif message.role == "user" and question is None and message.content.strip():
            question = message.content
        elif message.role == "assistant" and question is not None and not waiting:
            if message.tool_calls:
                waiting.update(call.id for call in message.tool_calls)
                steps.append(message)
            else:
                conversation.turns.append(Turn(question, message.content, tuple(steps)))
                question, steps = None, []
        else:
            raise ConfigError(say("out_of_turn", where=where, role=message.role))
    conversation.system = conversation.system or "\n\n".join(instructions)
    conversation.unanswered = question


def _read_message(entry: object, where: str, say: Say) -> Message:
    if isinstance(entry, dict) and isinstance(entry.get("content"), str):
        entry = {**entry, "content": clean_text(entry["content"])}  # before half characters are refused
    try:
        message = parse_message(entry)
    except RequestError as error:
        raise ConfigError(say("bad_message", where=where, reason=error)) from error
    return dataclasses.replace(message, content=clean_text(message.content))
