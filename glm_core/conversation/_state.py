"""The state of a chat: what was said, and how the next answer is made. No input, no output."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from ..messages import Message
from ..records import ChatRequest, Sampling

SETTINGS = (*(entry.name for entry in dataclasses.fields(Sampling)), "seed")
"""The names that `Conversation.change` takes."""


@dataclass(frozen=True)
class Turn:
    """A question and its answer.

    Attributes:
        question: the user's text.
        answer: the model's text, which is partial if it was stopped.
        steps: what stands between the two: calls of tools by the model, and their results.
    """

    question: str
    answer: str
    steps: tuple[Message, ...] = ()


@dataclass
class Conversation:
    """Everything that decides the next request.

    Attributes:
        turns: what was said, oldest first.
        system: instructions that stand before the conversation.
        adapter: name of a loaded adapter; ``None`` = the base model.
        sampling: only what the user changed; the rest is left to the model.
        seed: makes answers repeatable.
        unanswered: a question that failed or was stopped before its first word. No later request
            has it, but it can be asked again or edited.
        title: what the conversation is called; may be empty.
        model: name of the model that answered; may be empty.
    """

    turns: list[Turn] = field(default_factory=list)
    system: str = ""
    adapter: str | None = None
    sampling: Sampling = field(default_factory=Sampling)
    seed: int | None = None
    unanswered: str | None = None
    title: str = ""
    model: str = ""

    def build_request(
        self, question: str, *, after: int | None = None, with_tools: bool = True
    ) -> ChatRequest:
        """Return the request for ``question``.

        Args:
            question: what is asked.
            after: how many turns come before it, as if the others had not been; ``None`` = all.
            with_tools: ``False`` leaves calls of tools and their results out, for models without a format
                for them.

        Raises:
            RequestError: the question is empty.
        """
        messages = [Message("system", self.system)] if self.system.strip() else []
        for turn in self.turns[:after]:
            messages += list_turn_messages(turn if with_tools else dataclasses.replace(turn, steps=()))
        return ChatRequest(
            messages=(*messages, Message("user", question)),
            sampling=self.sampling,
            adapter=self.adapter,
            seed=self.seed,
        )

    def record(self, turn: Turn, *, after: int | None = None) -> None:
        """Add a turn, in place of everything behind the first ``after`` turns (default: of nothing)."""
        if after is not None:
            del self.turns[after:]
        self.turns.append(turn)
        self.unanswered = None

    def undo(self) -> str | None:
        """Forget the last question and its answer; return the question, or ``None`` if there was none."""
        if self.unanswered is not None:
            question, self.unanswered = self.unanswered, None
            return question
        return self.turns.pop().question if self.turns else None

    def clear(self) -> None:
        """Forget what was said; instructions, adapter and settings stay."""
        self.turns.clear()
        self.unanswered, self.title = None, ""

    def get_setting(self, name: str) -> object:
        """Return the value that the user gave to one of `SETTINGS`; ``None`` = the model's own default."""
        return self.seed if name == "seed" else getattr(self.sampling, name)

    def change(self, name: str, value: Any) -> None:
        """Give one of `SETTINGS` a value; ``None`` goes back to the model's own default.

        Raises:
            RequestError: the value is out of range or of the wrong type; nothing was changed.
        """
        if name == "seed":
            ChatRequest(messages=(Message("user", "?"),), seed=value)  # for its check
            self.seed = value
        else:
            self.sampling = dataclasses.replace(self.sampling, **{name: value})

    def get_changed_settings(self) -> dict[str, Any]:
        """Return the settings that are not left to the model, by name."""
        return {name: self.get_setting(name) for name in SETTINGS if self.get_setting(name) is not None}


def list_turn_messages(turn: Turn) -> Iterator[Message]:
    """Yield the messages of a turn, in order."""
    yield Message("user", turn.question)
    yield from turn.steps
    yield Message("assistant", turn.answer)
