"""Telling text from tool calls in an answer while it streams.

An answer is one message or several. A message's first line is empty, or the name of the tool that
its other lines call. What is no call is text, and what was emitted is never taken back; so a call
is emitted as a whole, once it is known to be one.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Sequence

from glm_core.records import Tool, ToolCallDelta

from .reply import ReplyPiece
from .reply_filter import ReplyFilter

# Longer than this nothing is taken for a call; it is what one may hold back.
MAX_CALL_CHARACTERS = 65_536


class ToolReply:
    """One answer of a model that was offered tools.

    Args:
        names: tools that may be called; what calls another is text.
        parse: from what follows a tool's name to the JSON text of the arguments, or ``None`` where
            that is no call.
        clean: makes the filter for one message's text.
        next_message_ids: tokens with which the model begins another message of the same answer.

    Attributes:
        calls: how many there were so far.
    """

    def __init__(
        self,
        names: Sequence[str],
        parse: Callable[[str], str | None],
        clean: Callable[[], ReplyFilter],
        next_message_ids: frozenset[int],
    ) -> None:
        self.calls = 0
        self.next_message_ids = next_message_ids
        self._names = tuple(names)
        self._parse = parse
        self._clean = clean
        self._held = ""  # until it is known whether the message is text
        self._text: ReplyFilter | None = None  # once it is
        self._has_text = False
        self._separator = ""

    def feed(self, text: str, *, last: bool = False) -> ReplyPiece:
        """Take more of the answer; ``last`` ends its message."""
        if self._text is None:
            self._held += text
            if self._can_be_call():
                if not last:
                    return ReplyPiece()
                call = self._read_call()
                if call is not None:
                    self._held = ""
                    return ReplyPiece(calls=(call,))
            self._text = self._clean()
            text, self._held = self._held, ""
        shown = self._text.feed(text, last=last)
        if shown:
            shown, self._separator, self._has_text = self._separator + shown, "", True
        return ReplyPiece(shown)

    def begin_next_message(self, text: str = "") -> ReplyPiece:
        """Take the rest of a message that another one follows; their texts stand on lines of their own."""
        piece = self.feed(text, last=True)
        self._text = None
        self._separator = "\n" if self._has_text else ""
        return piece

    def _can_be_call(self) -> bool:
        if len(self._held) > MAX_CALL_CHARACTERS:
            return False
        line, newline, _ = self._held.partition("\n")
        name = line.strip()
        return name in self._names if newline else any(known.startswith(name) for known in self._names)

    def _read_call(self) -> ToolCallDelta | None:
        line, _, rest = self._held.partition("\n")
        name = line.strip()
        arguments = self._parse(rest) if name in self._names else None
        if arguments is None:
            return None
        self.calls += 1
        return ToolCallDelta(self.calls - 1, f"call_{secrets.token_hex(12)}", name, arguments)


def list_callable_names(tools: Sequence[Tool], choice: str) -> tuple[str, ...]:
    """Return the names of the tools that a request's ``tool_choice`` allows."""
    names = tuple(tool.name for tool in tools)
    if choice == "none":
        return ()
    return (choice,) if choice in names else names
