"""Conversations: their state, and the one format in which they are exchanged, as JSON and as Markdown.

What one frontend writes the others read. `_state` is what was said and how the next answer is made,
`_messages` single messages in JSON, as OpenAI's chat API has them, `_files` whole conversations,
`_texts` what the files and their errors say in each language.
"""

from ._files import FORMAT_VERSION, MAX_FILE_BYTES, parse_conversation, to_json, to_markdown
from ._messages import dump_message, parse_message
from ._state import SETTINGS, Conversation, Turn

__all__ = [
    "FORMAT_VERSION",
    "MAX_FILE_BYTES",
    "SETTINGS",
    "Conversation",
    "Turn",
    "parse_message",
    "dump_message",
    "parse_conversation",
    "to_json",
    "to_markdown",
]
