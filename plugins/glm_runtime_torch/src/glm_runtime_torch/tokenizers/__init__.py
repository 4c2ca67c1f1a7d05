"""Tokenizers and chat formats: one module a family, and what they share.

A family's module holds its vocabulary (text to ids and back) and its chat format (conversation to prompt, the
clean-up of a reply, calls of tools, rows to train on), because the format is written in the vocabulary's
control tokens. The rest of the runtime sees the protocols below and knows no family.

==================  ========================================================================
``chatglm``         ChatGLM-6B: rounds counted from 0
``chatglm2``        ChatGLM2-6B: rounds counted from 1
``chatglm3``        ChatGLM3-6B: roles; its tools are in ``chatglm3_tools``
``glm4_9b``         GLM-4-9B as first published: roles over byte pairs
``native``          GLM-4-9B-hf and later: transformers' tokenizer and the checkpoint's own template
``template``        rendering a checkpoint's own template, within bounds
``vocabulary``      reading a SentencePiece file
``reply``           how the engine reads an answer while it streams
``reply_filter``    cleaning the text of an answer while it streams
``tool_reply``      telling calls from text while an answer streams
``training_rows``   a conversation and its answer as tokens to learn from
==================  ========================================================================
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol, runtime_checkable

if TYPE_CHECKING:
    from glm_core import Message, Tool

    from .reply import Reply
    from .reply_filter import ReplyFilter


class ChatTokenizer(Protocol):
    """What the runtime needs of a family's tokenizer and chat format.

    Text that a person typed never becomes a control token: only `encode_chat` and
    `encode_completion` add those.
    """

    vocab_size: int
    stop_token_ids: frozenset[int]

    def encode(self, text: str) -> list[int]:
        """Return ids of plain text, without any control token."""
        ...

    def decode(self, token_ids: Sequence[int]) -> str:
        """Return the text of ids; control tokens and ids beyond the vocabulary leave nothing behind."""
        ...

    def encode_chat(self, messages: Sequence[Message]) -> list[int]:
        """Return ids of a whole conversation that ends in a user's message, ready to prefill."""
        ...

    def encode_completion(self, text: str) -> list[int]:
        """Return ids of bare text that the model is to continue, without a chat format."""
        ...

    def make_reply_filter(self) -> ReplyFilter:
        """Return a new filter that cleans one streamed chat reply as the family's original does."""
        ...


@runtime_checkable
class ToolTokenizer(ChatTokenizer, Protocol):
    """A tokenizer of a family that was trained to call tools."""

    def encode_chat(self, messages: Sequence[Message], tools: Sequence[Tool] = ()) -> list[int]:
        """Return ids of a conversation in which tools are offered, called and answered."""
        ...

    def list_answer_beginnings(self, tools: Sequence[Tool], choice: str) -> Sequence[Sequence[int]]:
        """Return the ways, each as ids, in which an answer may begin under a ``tool_choice``; none = any."""
        ...

    def make_tool_reply(self, tools: Sequence[Tool], choice: str) -> Reply:
        """Return a new reader that tells text from calls in one streamed answer, and cleans its text."""
        ...
