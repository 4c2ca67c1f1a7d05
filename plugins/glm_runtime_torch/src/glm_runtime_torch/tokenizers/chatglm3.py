"""ChatGLM3-6B: the chat format of roles and tools, over ChatGLM2's vocabulary.

Vocabulary: the same file as ChatGLM2's, with control tokens for roles behind it.
Chat format: ``[gMASK] sop``, then each turn after its role's token; how tools are offered, called and
answered is in `chatglm3_tools`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from glm_core import Message, Tool

from . import chatglm3_tools
from .chatglm2 import ChatGLM2Tokenizer
from .tool_reply import ToolReply, list_callable_names
from .training_rows import TrainingIds, join_prompt_and_answer


class ChatGLM3Tokenizer(ChatGLM2Tokenizer):
    """The same vocabulary with control tokens for roles, and the role format of ChatGLM3."""

    roles: ClassVar[dict[str, str]] = {
        "system": "<|system|>",
        "user": "<|user|>",
        "assistant": "<|assistant|>",
        "observation": "<|observation|>",
    }
    control_tokens = (*ChatGLM2Tokenizer.control_tokens, *roles.values())
    end_tokens = (roles["user"], roles["observation"])

    def encode_chat(self, messages: Sequence[Message], tools: Sequence[Tool] = ()) -> list[int]:
        """Return ids of a conversation: each turn after its role's token, then the assistant's token."""
        ids = self._start
        for role, metadata, content in chatglm3_tools.list_turns(messages, tools):
            ids += self.encode_message(role, content, metadata)
        return [*ids, self._control[self.roles["assistant"]]]

    def encode_training_row(
        self, messages: Sequence[Message], answer: str, max_source_length: int, max_target_length: int
    ) -> TrainingIds:
        """Return prompt, answer as `turn` writes it, and end; the prompt keeps the assistant's token."""
        _, *learnt = self.encode_message("assistant", answer)
        prompt = self.encode_chat(messages)
        return join_prompt_and_answer(
            prompt, learnt, self.eos_token_id, max_source_length, max_target_length, kept_at_end=1
        )

    def list_answer_beginnings(self, tools: Sequence[Tool], choice: str) -> list[list[int]]:
        """Return the line that stands first in an answer: empty for ``"none"``, else the name of a tool."""
        if choice == "auto":
            return []
        lines = list_callable_names(tools, choice) or ("",)
        return [self.encode(f"{line}\n") for line in lines]

    def make_tool_reply(self, tools: Sequence[Tool], choice: str) -> ToolReply:
        """Return a reader of calls in the original's format; nothing is run, see `chatglm3_tools`."""
        return ToolReply(
            list_callable_names(tools, choice),
            chatglm3_tools.parse_call,
            self.make_reply_filter,
            frozenset({self._control[self.roles["assistant"]]}),
        )

    def encode_message(self, role: str, content: str, metadata: str = "") -> list[int]:
        """Return the ids of one message.

        Args:
            role: a key of ``roles``.
            content: plain text; encoded by itself, so that nothing in it joins what stands before.
            metadata: of an assistant's message: the name of the tool that it calls.
        """
        return [self._control[self.roles[role]], *self.encode(f"{metadata}\n"), *self.encode(content)]
