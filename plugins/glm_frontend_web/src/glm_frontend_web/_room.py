"""How long a conversation on the page may get, whether it grows by asking or comes from a file."""

from __future__ import annotations

from collections.abc import Sequence

from glm_core.conversation import Turn

from ._texts import Texts

MAX_TURNS = 2000
"""Of a conversation, because every turn has buttons, a hundred times as long as a short word."""
MAX_BYTES = 3_000_000
"""Of its texts, and of a file of one. Rendered, and in gradio's copies, they take twenty times as much."""


def describe_full(turns: Sequence[Turn], question: str, system: str, say: Texts) -> str:
    """Return the sentence for a conversation that has no room for a question; empty where it has.

    Args:
        turns: those that come before the question.
        question: what is asked.
        system: instructions before the conversation.
        say: the texts, in the visitor's language.
    """
    if len(turns) >= MAX_TURNS:
        return say("too_many_turns", limit=MAX_TURNS)
    texts = [system, question]
    for turn in turns:
        texts += [turn.question, turn.answer]
        for step in turn.steps:
            texts += [step.content, *(call.arguments for call in step.tool_calls)]
    # Half characters are cleaned away where texts come in; what is counted here must not fail all the same.
    if sum(len(text.encode("utf-8", "replace")) for text in texts) > MAX_BYTES:
        return say("conversation_full", limit=MAX_BYTES // 1_000_000)
    return ""
