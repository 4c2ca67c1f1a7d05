"""What the engine knows of an adapter: its name, its room in the KV cache, a key of its content, its work.

A kind of adapter is a class here or in a plugin. The engine, the KV cache and the prefix cache know this
protocol and no kind, so a new kind changes none of them:

- A **prefix** (`glm_runtime_torch.adapters.prefix`) works once: it writes keys and values into the slot
  that its request gets. From then on the slot has a copy, and the engine lets the adapter go.
- An adapter that changes **what layers compute** (LoRA) works at every step: its `StepHook` is told which
  rows of the batch use which adapter before the network is called.
- One that does both is `CombinedAdapter`, or any two of them.
"""

from __future__ import annotations

from abc import ABC
from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Protocol

import torch

from ..network.kv_cache import KVCache
from ..network.language_model import LanguageModel


class StepHook(Protocol):
    """What the adapters of one kind do together while the network computes.

    All adapters of a kind on one network share one hook: layers compute a batch once, whatever
    adapters its rows use. Called on the engine's thread only.
    """

    def apply(self, rows: Sequence[tuple[Adapter, ...]]) -> AbstractContextManager[None]:
        """Return a context in which the network computes with these adapters.

        It is entered before every step that concerns this hook, for each piece of a prompt and for
        each decode step, and left after it. Steps without such rows are computed outside of any.

        Args:
            rows: for each row of the batch, in order, its adapters of this hook; most often none or one.
        """
        ...


class Adapter(ABC):
    """One loaded adapter, on its device and ready for requests; it never changes.

    Attributes:
        name: by which requests ask for it.
        kind: what it is, for people: ``"prefix"``.
        content_key: equal for adapters with equal effect and for no others, whatever their names. Keys and
            values in a slot that were computed with one adapter are reused for requests whose adapter has
            the same key: a fingerprint of the weights together with the kind and what else decides.
        num_positions: positions of a slot of the KV cache that it takes, in front of the prompt.
        step_hook: its part in every step; ``None`` = it works when a slot is filled, and then no more.
    """

    kind: str
    step_hook: StepHook | None = None

    def __init__(self, name: str, content_key: str, num_positions: int = 0) -> None:
        self.name = name
        self.content_key = content_key
        self.num_positions = num_positions

    @property
    def parts(self) -> tuple[Adapter, ...]:
        """Return what it consists of: itself, or the members of a combination."""
        return (self,)

    def fill_slot(self, cache: KVCache, slot: int, start: int = 0) -> None:  # noqa: B027  # most do nothing
        """Write what stands in front of a prompt, before the prompt is taken in.

        Args:
            cache: of the engine.
            slot: of the request.
            start: the first of the adapter's positions.
        """


class CombinedAdapter(Adapter):
    """Several adapters as one: their positions stand behind one another, their hooks all act.

    Args:
        name: by which requests ask for it.
        members: in the order of their positions.
    """

    kind = "combined"

    def __init__(self, name: str, members: Sequence[Adapter]) -> None:
        key = f"{self.kind}({','.join(member.content_key for member in members)})"
        super().__init__(name, key, sum(member.num_positions for member in members))
        self._members = tuple(members)

    @property
    def parts(self) -> tuple[Adapter, ...]:
        """Return the members, and theirs."""
        return tuple(part for member in self._members for part in member.parts)

    def fill_slot(self, cache: KVCache, slot: int, start: int = 0) -> None:
        """See `Adapter.fill_slot`."""
        for member in self._members:
            member.fill_slot(cache, slot, start)
            start += member.num_positions


class StoredAdapter(Protocol):
    """An adapter as read from its files: what it needs is known before it is put on a device."""

    @property
    def kind(self) -> str:
        """See `Adapter.kind`."""
        ...

    @property
    def num_positions(self) -> int:
        """See `Adapter.num_positions`."""
        ...

    def count_bytes(self, dtype: torch.dtype) -> int:
        """Return the memory that it takes once it is placed, in a model that computes in ``dtype``."""
        ...

    def place(self, name: str, network: LanguageModel, device: torch.device, dtype: torch.dtype) -> Adapter:
        """Put it on a device, ready for requests.

        Args:
            name: by which requests ask for it.
            network: that it is to serve; a kind that changes layers finds them by its parts.
            device: where the network takes its inputs.
            dtype: of keys, values and hidden states.
        """
        ...


def find_step_parts(adapter: Adapter | None) -> tuple[Adapter, ...]:
    """Return the parts of an adapter that act in every step."""
    if adapter is None:
        return ()
    return tuple(part for part in adapter.parts if part.step_hook is not None)
