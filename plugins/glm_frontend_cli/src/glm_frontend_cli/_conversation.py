"""The state of a chat: what was said, and how the next answer shall be made. No input, no output."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from glm_core import ChatRequest, Message, RequestError, Sampling

SETTINGS = (*(entry.name for entry in dataclasses.fields(Sampling)), "seed")
"""What ``/set`` takes."""
SWITCHES = ("do_sample", "ignore_eos")
"""Those of them that are true or false."""

_SPELLED = {"true": True, "on": True, "yes": True, "false": False, "off": False, "no": False}


@dataclass(frozen=True)
class Turn:
    """A question and its answer, which is partial if it was stopped."""

    question: str
    answer: str


@dataclass
class Conversation:
    """Everything that decides the next request.

    Attributes:
        turns: what was said, oldest first.
        system: instructions that stand before the conversation.
        adapter: name of a loaded adapter; ``None`` = the base model.
        sampling: only what the user changed; the rest is left to the model.
        seed: makes answers repeatable.
        unanswered: a question that failed or was stopped before its first word. It is no part of
            the conversation, but can be asked again or edited.
    """

    turns: list[Turn] = field(default_factory=list)
    system: str | None = None
    adapter: str | None = None
    sampling: Sampling = field(default_factory=Sampling)
    seed: int | None = None
    unanswered: str | None = None

    @property
    def last_question(self) -> str | None:
        """The question that ``/regenerate`` and ``/edit`` are about."""
        if self.unanswered is not None:
            return self.unanswered
        return self.turns[-1].question if self.turns else None

    @property
    def last_is_answered(self) -> bool:
        """Whether `last_question` is in the conversation, so that asking it again replaces a turn."""
        return self.unanswered is None and bool(self.turns)

    def request(self, question: str, *, replacing: bool = False) -> ChatRequest:
        """The request for ``question``; with ``replacing``, as if the last turn had not been.

        Raises:
            RequestError: the question is empty.
        """
        messages = [Message("system", self.system)] if self.system else []
        for turn in self.turns[:-1] if replacing else self.turns:
            messages += [Message("user", turn.question), Message("assistant", turn.answer)]
        messages.append(Message("user", question))
        return ChatRequest(
            messages=tuple(messages), sampling=self.sampling, adapter=self.adapter, seed=self.seed
        )

    def record(self, question: str, answer: str, *, replacing: bool = False) -> None:
        """Add a turn; with ``replacing``, in place of the last one."""
        if replacing and self.turns:
            self.turns.pop()
        self.turns.append(Turn(question, answer))
        self.unanswered = None

    def undo(self) -> str | None:
        """Forget the last question and its answer; the question, or ``None`` if there was none."""
        question = self.last_question
        if self.unanswered is not None:
            self.unanswered = None
        elif self.turns:
            self.turns.pop()
        return question

    def clear(self) -> None:
        """Forget what was said; instructions, adapter and settings stay."""
        self.turns.clear()
        self.unanswered = None

    def setting(self, name: str) -> object:
        """The value that the user gave to a setting; ``None`` = the model's own default."""
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

    def change_all(self, values: Mapping[str, Any]) -> None:
        """Change every setting that ``values`` has something else than ``None`` for."""
        for name in SETTINGS:
            if values.get(name) is not None:
                self.change(name, values[name])

    def changed_settings(self) -> dict[str, Any]:
        """The settings that are not the model's own defaults."""
        return {name: self.setting(name) for name in SETTINGS if self.setting(name) is not None}


def parse_value(text: str) -> bool | int | float | str:
    """What was typed, as the most specific type it can be; `Conversation.change` judges it."""
    if text.lower() in _SPELLED:
        return _SPELLED[text.lower()]
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


__all__ = ["SETTINGS", "SWITCHES", "Conversation", "RequestError", "Turn", "parse_value"]
