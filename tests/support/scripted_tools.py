"""A model that was trained to call tools, with a script in place of its weights."""

from __future__ import annotations

import json
from collections.abc import Callable, Generator, Sequence
from pathlib import Path
from typing import Any

import torch
from glm_runtime_torch import plugin
from glm_runtime_torch.architectures.chatglm2 import ChatGLM2Config
from glm_runtime_torch.families.registry import CHATGLM3
from glm_runtime_torch.model.torch_model import TorchModel
from glm_runtime_torch.network.language_model import Dimensions
from glm_runtime_torch.tokenizers.chatglm3 import ChatGLM3Tokenizer
from glm_testing import make_host
from scripted_engine import CausalLayout

from glm_core import ChatModel, Tool

CPU = torch.device("cpu")
WEATHER = Tool(
    "get_weather",
    "查询天气",
    {"type": "object", "properties": {"city": {"type": "string"}}},
)
TIME = Tool("get_time", "what time it is", {"type": "object", "properties": {"zone": {"type": "string"}}})

Turn = tuple[str, str]
"""Metadata and content of one message of an answer."""


class ScriptedNetwork(torch.nn.Module):
    """Writes prepared answers, one request at a time; what was forced on it, it accepts.

    Args:
        answer: from the ids of a prompt to those of the answer.
        vocab_size: how many tokens there are to choose from.
    """

    dimensions: Dimensions

    def __init__(self, answer: Callable[[Sequence[int]], Sequence[int]], vocab_size: int) -> None:
        super().__init__()
        self._answer = answer
        self._others = -torch.arange(vocab_size).unsqueeze(0) / 1000
        self.prompts: list[tuple[int, ...]] = []

    def find_layout(self, prompt: Sequence[int]) -> CausalLayout:
        """Causal; the prompt is noted."""
        self.prompts.append(tuple(prompt))
        return CausalLayout()

    def prefill(
        self, input_ids: torch.Tensor, position_ids: torch.Tensor, rows: Any, chunk_size: int
    ) -> Generator[None, None, torch.Tensor]:
        """Think of the answer."""
        yield
        self._script = list(self._answer(self.prompts[-1]))
        return self._scores(0)

    def decode(self, input_ids: torch.Tensor, position_ids: torch.Tensor, rows: Any) -> torch.Tensor:
        """The next token by its place."""
        return self._scores(int(position_ids.flatten()[0]) + 1 - len(self.prompts[-1])).unsqueeze(1)

    def _scores(self, place: int) -> torch.Tensor:
        scores = self._others.clone()
        scores[0, self._script[place]] = 50.0
        return scores


def written_answer(tokenizer: ChatGLM3Tokenizer, *turns: Turn, end: str = "<|user|>") -> list[int]:
    """Ids of an answer of one message or several, and of the token that ends it."""
    ids: list[int] = []
    for number, (metadata, content) in enumerate(turns):
        ids += [tokenizer.get_control_token_id("<|assistant|>")] if number else []
        ids += [*tokenizer.encode(f"{metadata}\n"), *tokenizer.encode(content)]
    return [*ids, tokenizer.get_control_token_id(end)]


def call_turn(name: str, arguments: str) -> Turn:
    """A call, its arguments as Python."""
    return name, f"```python\ntool_call({arguments})\n```"


def scripted_model(
    tokenizer: ChatGLM3Tokenizer, answer: Callable[[Sequence[int]], Sequence[int]]
) -> tuple[ChatModel, ScriptedNetwork]:
    """A placed model of the family and its network."""
    data = Path(__file__).parent.parent / "data" / "chatglm3-6b" / "ckpt" / "fp16-bin-sharded"
    raw = json.loads((data / "config.json").read_text("utf-8"))
    config = ChatGLM2Config.from_checkpoint(raw)
    network = ScriptedNetwork(answer, tokenizer.vocab_size)
    network.dimensions = config.dimensions  # the caches and prefixes have the family's sizes
    model = TorchModel(
        "scripted-tools",
        CHATGLM3,
        config,
        network,  # type: ignore[arg-type]
        tokenizer,
        torch.float32,
    )
    model.start(CPU, slots=1, context_length=4096)
    return ChatModel(make_host(torch=plugin), "torch", model), network


def answers_in_turn(
    tokenizer: ChatGLM3Tokenizer, *answers: Sequence[int]
) -> tuple[ChatModel, ScriptedNetwork]:
    """A model that gives one prepared answer after the other."""
    coming = iter(answers)
    return scripted_model(tokenizer, lambda prompt: next(coming))
