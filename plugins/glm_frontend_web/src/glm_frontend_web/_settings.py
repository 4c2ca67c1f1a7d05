"""What the page sets beside the conversation, as its sliders and fields show it."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from glm_core import ModelInfo, Sampling
from glm_core.conversation import Conversation


@dataclass(frozen=True)
class PageSettings:
    """The values of the settings.

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
    def from_model(cls, info: ModelInfo) -> PageSettings:
        """Return the model's own defaults; who loads one adapter means to chat with it."""
        adapter = info.adapters[0] if len(info.adapters) == 1 else None
        return cls.from_conversation(Conversation(adapter=adapter), info)

    @classmethod
    def from_conversation(cls, conversation: Conversation, info: ModelInfo) -> PageSettings:
        """Return what a conversation says, and the model's own defaults where it says nothing."""
        sampling = conversation.sampling.complete_with(info.sampling)
        temperature = 1.0 if sampling.temperature is None else sampling.temperature
        return cls(
            system=conversation.system,
            adapter=conversation.adapter,
            max_length=sampling.max_length or info.context_length,
            top_p=1.0 if sampling.top_p is None else sampling.top_p,
            temperature=0.0 if sampling.do_sample is False else temperature,
        )

    def apply_to(self, conversation: Conversation) -> None:
        """Make a conversation go on with these settings.

        What the page has no slider for, such as an imported file's seed, stays.

        Raises:
            RequestError: a value is out of range; nothing was changed.
        """
        conversation.sampling = dataclasses.replace(
            conversation.sampling,
            max_length=int(self.max_length) or None,
            top_p=self.top_p,
            temperature=self.temperature,
            do_sample=self.temperature > 0,
        )
        conversation.system, conversation.adapter = self.system, self.adapter


def reset_hidden_settings(conversation: Conversation) -> None:
    """Leave everything that the page has no slider for to the model again."""
    conversation.sampling, conversation.seed = Sampling(), None
