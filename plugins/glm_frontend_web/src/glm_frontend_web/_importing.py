"""Reading a conversation that a browser sends."""

from __future__ import annotations

import base64

from glm_core import RequestError
from glm_core.cleaning import clean_text
from glm_core.conversation import Conversation, parse_conversation

from ._room import MAX_BYTES, MAX_TURNS
from ._texts import Texts

_MAX_NAME = 200  # characters of a file's name that messages repeat


def read_import(name: object, content: object, say: Texts) -> Conversation:
    """Return the conversation in a file.

    Args:
        name: the file's name.
        content: its bytes as base64; the page's script sends none where a file is too large. Like the
            name it comes from a browser, and may be anything.
        say: the texts for errors.

    Raises:
        GlmError: the file is too large, was not sent whole, or is no conversation.
    """
    name = clean_text(name)[:_MAX_NAME] if isinstance(name, str) else ""
    try:
        data = base64.b64decode(content, validate=True) if isinstance(content, str) else None
    except ValueError as error:
        raise RequestError(say("import_broken", name=name)) from error
    if data is None or len(data) > MAX_BYTES:
        raise RequestError(say("import_too_large", name=name, limit=MAX_BYTES // 1_000_000))
    conversation = parse_conversation(data, name, say.language)
    if len(conversation.turns) > MAX_TURNS:
        raise RequestError(say("import_too_long", name=name, limit=MAX_TURNS))
    return conversation
