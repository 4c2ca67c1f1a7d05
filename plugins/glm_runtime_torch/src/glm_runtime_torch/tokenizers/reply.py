"""Reading one answer while it streams, whatever the family: text, calls of tools, several messages."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from glm_core.records import ToolCallDelta

from .reply_filter import ReplyFilter


@dataclass(frozen=True)
class ReplyPiece:
    """What is final of an answer.

    Attributes:
        text: to append.
        calls: whole calls, each in one piece.
    """

    text: str = ""
    calls: tuple[ToolCallDelta, ...] = ()


class Reply(Protocol):
    """What the engine needs of a reader; what was handed out is never taken back.

    Attributes:
        calls: how many calls of tools there were so far.
        next_message_ids: tokens with which the model begins another message of the same answer.
    """

    calls: int
    next_message_ids: frozenset[int]

    def feed(self, text: str, *, last: bool = False) -> ReplyPiece:
        """Take more of the answer and return what is final; ``last`` ends its message."""
        ...

    def begin_next_message(self, text: str = "") -> ReplyPiece:
        """Take the rest of a message that another one follows and return what is final."""
        ...


class PlainReply:
    """One answer in which there are no calls.

    Args:
        clean: the filter for its text; ``None`` leaves it as it is.
    """

    calls = 0
    next_message_ids: frozenset[int] = frozenset()

    def __init__(self, clean: ReplyFilter | None) -> None:
        self._filter = clean

    def feed(self, text: str, *, last: bool = False) -> ReplyPiece:
        """Take more of the answer."""
        return ReplyPiece(text if self._filter is None else self._filter.feed(text, last=last))

    def begin_next_message(self, text: str = "") -> ReplyPiece:
        """Take the text as more of the answer, which is one message; nothing calls it."""
        return self.feed(text)
