"""Tokenizers of the families: text to ids, chats to prompts, ids back to clean replies."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol, runtime_checkable

if TYPE_CHECKING:
    from glm_core import Message, Tool

    from .reply import ReplyFilter
    from .tool_reply import ToolReply


class ChatTokenizer(Protocol):
    """What the engine needs of a tokenizer; one implementation per family.

    Text that a person typed never becomes a control token: only `chat_prompt` and
    `completion_prompt` add those.
    """

    vocab_size: int
    stop_token_ids: frozenset[int]

    def encode(self, text: str) -> list[int]:
        """Ids of plain text, without any control token."""
        ...

    def decode(self, token_ids: Sequence[int]) -> str:
        """Text of ids; control tokens and ids beyond the vocabulary leave nothing behind."""
        ...

    def chat_prompt(self, messages: Sequence[Message]) -> list[int]:
        """Ids of a whole conversation that ends in a user's message, ready to prefill."""
        ...

    def completion_prompt(self, text: str) -> list[int]:
        """Ids of bare text that the model shall go on from, without a chat format."""
        ...

    def reply_filter(self) -> ReplyFilter:
        """A fresh filter that cleans one streamed chat reply as the family's original does."""
        ...


@runtime_checkable
class ToolTokenizer(ChatTokenizer, Protocol):
    """A tokenizer of a family that was trained to call tools."""

    def chat_prompt(self, messages: Sequence[Message], tools: Sequence[Tool] = ()) -> list[int]:
        """Ids of a conversation in which tools are offered, called and answered, ready to prefill."""
        ...

    def answer_beginnings(self, tools: Sequence[Tool], choice: str) -> Sequence[Sequence[int]]:
        """Ids with which an answer must begin under a ``tool_choice``, in each way; none = any."""
        ...

    def tool_reply(self, tools: Sequence[Tool], choice: str) -> ToolReply:
        """What tells text from calls in one streamed answer, and cleans its text."""
        ...
