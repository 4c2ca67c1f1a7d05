"""A network that counts instead of thinking, for tests of the engine around it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from glm_runtime_torch.generation.engine import Engine
from glm_runtime_torch.network.kv_cache import KVCache
from patience import PATIENCE_SECONDS
from tiny_models import ScriptedTokenizer

from glm_core import ChatRequest, Message, Sampling

VOCABULARY = 1000
CPU = torch.device("cpu")
DEFAULTS = Sampling(max_length=64, temperature=1.0, top_p=1.0, top_k=0, do_sample=False)


@dataclass(frozen=True)
class CausalLayout:
    """One row of positions, nothing bidirectional."""

    context_length: int = 0

    def compute_position_ids(self, start: int, stop: int) -> torch.Tensor:
        """Each token stands at its index."""
        return torch.arange(start, stop).unsqueeze(0)


class CountingNetwork:
    """After token n comes n + 1; a test may look at, hold up or break every step.

    Args:
        prefill_steps: pauses of one prompt.
    """

    def __init__(self, prefill_steps: int = 1) -> None:
        self.prefill_steps = prefill_steps
        self.before_prefill: Callable[[list[int]], None] = lambda prompt: None
        self.before_decode: Callable[[list[int]], None] = lambda tokens: None
        self.log: list[tuple[str, tuple[int, ...]]] = []

    def prefill(
        self, input_ids: torch.Tensor, position_ids: torch.Tensor, rows: Any, chunk_size: int
    ) -> Generator[None, None, torch.Tensor]:
        """Pause as often as asked."""
        prompt = input_ids[0].tolist()
        for _ in range(self.prefill_steps):
            self.log.append(("prefill", tuple(prompt)))
            self.before_prefill(prompt)
            yield
        return self._logits([prompt[-1]])

    def decode(self, input_ids: torch.Tensor, position_ids: torch.Tensor, rows: Any) -> torch.Tensor:
        """One step of all rows."""
        tokens = input_ids[:, 0].tolist()
        self.log.append(("decode", tuple(tokens)))
        self.before_decode(tokens)
        return self._logits(tokens).unsqueeze(1)

    def find_layout(self, prompt: Sequence[int]) -> CausalLayout:
        """Causal."""
        return CausalLayout()

    def _logits(self, tokens: list[int]) -> torch.Tensor:
        return torch.nn.functional.one_hot(torch.tensor(tokens) + 1, VOCABULARY).float()


class NumberTokenizer(ScriptedTokenizer):
    """A question that is a number begins with that token."""

    def __init__(self) -> None:
        super().__init__([], [])

    def encode_chat(self, messages: Sequence[Message]) -> list[int]:
        """The number asked."""
        return [int(messages[-1].content)]

    def encode_completion(self, text: str) -> list[int]:
        """The number."""
        return [int(text)]


def counting_engine(network: CountingNetwork, *, slots: int = 2, queue_capacity: int = 64) -> Engine:
    """An engine over a counting network."""
    cache = KVCache(
        num_layers=1,
        num_slots=slots,
        num_kv_heads=1,
        capacity=64,
        head_dim=2,
        dtype=torch.float32,
        device=CPU,
    )
    return Engine(
        network,  # type: ignore[arg-type]
        NumberTokenizer(),
        cache,
        capacity=64,
        sampling=DEFAULTS,
        device=CPU,
        queue_capacity=queue_capacity,
    )


def count_from(number: int, length: int = 3, **request: Any) -> ChatRequest:
    """A request whose answer is the ``length`` numbers after ``number``."""
    return ChatRequest((Message("user", str(number)),), Sampling(max_new_tokens=length), **request)


class Gate:
    """Holds the engine's thread up until the test lets it through."""

    def __init__(self) -> None:
        self.reached = threading.Event()
        self._open = threading.Event()

    def __call__(self, *_: object) -> None:
        self.reached.set()
        assert self._open.wait(PATIENCE_SECONDS), "the test never opened the gate"

    def open(self) -> None:
        """Let everybody through from now on."""
        self._open.set()
