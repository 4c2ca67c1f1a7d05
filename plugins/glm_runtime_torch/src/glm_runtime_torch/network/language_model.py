"""The one interface of every family's network: its parts by role, its dimensions, its passes.

Whoever works on a network (engine, quantisation, calibration, fitting, device maps, backends) asks it for
its parts. Nothing outside an architecture's own module knows what a part is called there.

Axes: B batch · T new tokens · S key positions · D hidden · V vocabulary · R position rows
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from operator import attrgetter
from typing import ClassVar

from torch import Tensor, nn

from .attention import AttendingStore, KeyValueStore
from .kv_cache import PrefillRows
from .layout import SequenceLayout
from .places import Place, find_places
from .route import DeviceRoute


@dataclass(frozen=True)
class Dimensions:
    """The sizes of a network; an architecture computes them once, from its configuration.

    Attributes:
        num_layers: transformer blocks.
        hidden_size: width of the hidden states.
        num_heads: query heads.
        num_kv_heads: heads of keys and values; fewer than ``num_heads`` where queries share them.
        head_dim: channels of one head.
        vocab_size: rows of the embedding table.
        context_length: tokens that one request may use unless the user says otherwise.
        eos_token_id: the token that ends an answer.
    """

    num_layers: int
    hidden_size: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    vocab_size: int
    context_length: int
    eos_token_id: int


@dataclass(frozen=True)
class PartNames:
    """Full module names of a network's parts, as in its checkpoints.

    Attributes:
        embedding: token ids ``[B, T]`` to rows ``[B, T, D]``.
        blocks: the list of transformer blocks, in order.
        final_norm: what stands after the last block.
        head: hidden states ``[..., D]`` to logits ``[..., V]``.
    """

    embedding: str
    blocks: str
    final_norm: str
    head: str

    def name_block(self, layer: int) -> str:
        """Return the full name of one block."""
        return f"{self.blocks}.{layer}"


class LanguageModel(nn.Module, ABC):
    """A family's network.

    A subclass declares `part_names` and builds modules of these names.

    Args:
        dimensions: its sizes.

    Attributes:
        part_names: where its parts stand.
        dimensions: its sizes.
        route: on which devices the parts stand; ``None`` = all on one.
    """

    part_names: ClassVar[PartNames]

    def __init_subclass__(cls, **settings: object) -> None:
        """Prepare the look-up of the parts: a pass asks for them at every token."""
        super().__init_subclass__(**settings)
        names = getattr(cls, "part_names", None)
        if names is not None:
            cls._embedding = attrgetter(names.embedding)
            cls._blocks = attrgetter(names.blocks)
            cls._final_norm = attrgetter(names.final_norm)
            cls._head = attrgetter(names.head)

    _embedding: ClassVar[attrgetter[nn.Module]]
    _blocks: ClassVar[attrgetter[nn.ModuleList]]
    _final_norm: ClassVar[attrgetter[nn.Module]]
    _head: ClassVar[attrgetter[nn.Module]]

    def __init__(self, dimensions: Dimensions) -> None:
        super().__init__()
        self.dimensions = dimensions
        self.route: DeviceRoute | None = None

    @property
    def embedding(self) -> nn.Module:
        """Token ids ``[B, T]`` to rows ``[B, T, D]``."""
        return self._embedding(self)

    @property
    def blocks(self) -> nn.ModuleList:
        """The transformer blocks in order."""
        return self._blocks(self)

    @property
    def final_norm(self) -> nn.Module:
        """What stands after the last block."""
        return self._final_norm(self)

    @property
    def head(self) -> nn.Module:
        """Hidden states ``[..., D]`` after the final norm to logits ``[..., V]``."""
        return self._head(self)

    @property
    def embedding_place(self) -> Place:
        """Where the embedding stands."""
        return Place.from_name(self, self.part_names.embedding)

    @property
    def head_place(self) -> Place:
        """Where the head stands."""
        return Place.from_name(self, self.part_names.head)

    @property
    def is_tied(self) -> bool:
        """Whether embedding and head are one table."""
        table = {id(parameter) for parameter in self.embedding.parameters()}
        return any(id(parameter) in table for parameter in self.head.parameters())

    def find_block_linears(self) -> list[Place]:
        """Return the places of all plain linear layers inside the blocks: what can be quantised or wrapped.

        In the order of the blocks. Layers that were replaced by others (quantised, a backend's own) are
        not among them.
        """
        return find_places(
            self.blocks, lambda module: isinstance(module, nn.Linear), name=self.part_names.blocks
        )

    @abstractmethod
    def forward(
        self,
        input_ids: Tensor,
        position_ids: Tensor,
        attention_mask: Tensor | None,
        store: KeyValueStore | AttendingStore | None = None,
        *,
        wanted: Tensor | None = None,
    ) -> Tensor:
        """Return the logits ``[B, T, V]`` of every position, or ``[n, V]`` of the wanted ones, row by row.

        Args:
            input_ids: ``[B, T]`` int64.
            position_ids: ``[B, R, T]`` int64.
            attention_mask: ``[B, 1, T, S]`` bool, True = visible; ``None`` = every key is.
            store: earlier keys and values; ``None`` for a single pass without a cache.
            wanted: ``[B, T]`` bool, True where logits are computed; ``None`` = everywhere.
        """

    @abstractmethod
    def prefill(
        self, input_ids: Tensor, position_ids: Tensor, rows: PrefillRows, chunk_size: int
    ) -> Generator[None, None, Tensor]:
        """Take in one prompt, pausing after every bounded piece of work.

        A generator, because the network knows where it may pause and the engine knows when. How a prompt
        is cut depends on its length alone, so the same prompt gives the same bits however busy the engine
        is.

        Args:
            input_ids: ``[1, T]`` int64.
            position_ids: ``[1, R, T]`` int64.
            rows: where keys and values go.
            chunk_size: tokens that pass one block between two pauses at most.

        Returns:
            Logits ``[1, V]`` of the last token.
        """

    @abstractmethod
    def decode(self, input_ids: Tensor, position_ids: Tensor, rows: AttendingStore) -> Tensor:
        """Feed T tokens a row, ``[B, T]`` at ``[B, R, T]``; return the logits ``[B, T, V]`` after each."""

    @abstractmethod
    def find_layout(self, prompt: Sequence[int]) -> SequenceLayout:
        """Return positions and visibility of a sequence that begins with ``prompt``."""
