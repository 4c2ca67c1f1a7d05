"""The state of one visitor's chat: what was said, and how the next answer shall be made."""

from __future__ import annotations

from dataclasses import dataclass, field

from glm_core import ChatRequest, Message, ModelInfo, RequestError, Sampling


@dataclass(frozen=True)
class Turn:
    """A question and its answer, which is partial if it was stopped."""

    question: str
    answer: str


@dataclass(frozen=True)
class Settings:
    """What the visitor sets beside the conversation.

    Attributes:
        system: instructions that stand before the conversation.
        adapter: name of a loaded adapter; ``None`` = the base model.
        max_length: tokens of prompt and answer together; 0 = the model's own.
        top_p: share of probability to choose from.
        temperature: 0 = the most likely token always.
    """

    system: str = ""
    adapter: str | None = None
    max_length: int = 0
    top_p: float = 1.0
    temperature: float = 1.0

    @classmethod
    def of_model(cls, info: ModelInfo) -> Settings:
        """The model's own defaults; who loads one adapter means to chat with it."""
        defaults = info.sampling
        greedy = defaults.do_sample is False
        return cls(
            adapter=info.adapters[0] if len(info.adapters) == 1 else None,
            max_length=defaults.max_length or info.context_length,
            top_p=1.0 if defaults.top_p is None else defaults.top_p,
            temperature=0.0 if greedy else 1.0 if defaults.temperature is None else defaults.temperature,
        )

    @property
    def sampling(self) -> Sampling:
        """For a request.

        Raises:
            RequestError: a value is out of range.
        """
        return Sampling(
            max_length=int(self.max_length) or None,
            top_p=self.top_p,
            temperature=self.temperature,
            do_sample=self.temperature > 0,
        )


@dataclass
class Conversation:
    """What was said, oldest first."""

    turns: list[Turn] = field(default_factory=list)

    def request(self, question: str, settings: Settings, *, after: int | None = None) -> ChatRequest:
        """The request for ``question``, asked when only the first ``after`` turns had been (default: all).

        Raises:
            RequestError: the question is empty, or a setting is out of range.
        """
        messages = [Message("system", settings.system)] if settings.system.strip() else []
        for turn in self.turns[:after]:
            messages += [Message("user", turn.question), Message("assistant", turn.answer)]
        messages.append(Message("user", question))
        return ChatRequest(messages=tuple(messages), sampling=settings.sampling, adapter=settings.adapter)

    def record(self, turn: Turn, *, after: int | None = None) -> None:
        """Add a turn in place of everything behind the first ``after`` turns."""
        if after is not None:
            del self.turns[after:]
        self.turns.append(turn)

    def undo(self) -> str | None:
        """Forget the last turn; its question, or ``None`` if there was none."""
        return self.turns.pop().question if self.turns else None

    def delete(self, index: int) -> None:
        """Forget one turn.

        Raises:
            RequestError: there is no such turn.
        """
        self.question_at(index)
        del self.turns[index]

    def question_at(self, index: object) -> str:
        """The question of one turn; ``index`` comes from a browser and may be anything.

        Raises:
            RequestError: there is no such turn.
        """
        if isinstance(index, bool) or not isinstance(index, int) or not 0 <= index < len(self.turns):
            raise RequestError(f"there is no turn {index!r}; there are {len(self.turns)}")
        return self.turns[index].question
