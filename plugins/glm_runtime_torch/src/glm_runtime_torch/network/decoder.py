"""What the networks of all families share: the way of hidden states from tokens through the blocks to logits.

A family's own module says what its blocks compute and where its parts stand; nothing here knows a
family's name.

Axes: B batch · T new tokens · S key positions · D hidden · V vocabulary · R position rows · L layers
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Generator
from functools import partial

from torch import Tensor, nn
from torch.nn import functional as F

from .attention import AttendingStore, KeyValueStore, attend
from .kv_cache import PrefillRows
from .prefill import prefill_blocks
from .rotary import Rotary, RotaryEmbedding
from .route import Route

IGNORED_LABEL = -100


class DecoderBlock(nn.Module, ABC):
    """One transformer block in the two halves of `prefill.Block`; attention stands between.

    Args:
        layer: its number.
    """

    def __init__(self, layer: int) -> None:
        super().__init__()
        self.layer = layer

    def forward(
        self,
        h: Tensor,
        rotary: Rotary,
        attention_mask: Tensor | None,
        store: KeyValueStore | AttendingStore | None,
    ) -> Tensor:
        """Map hidden states ``[B, T, D]`` to ``[B, T, D]``."""
        residual, q, k, v = self.project(h)
        return self.finish(residual, attend(q, k, v, rotary, self.layer, attention_mask, store))

    @abstractmethod
    def project(self, h: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """See `prefill.Block.project`."""

    @abstractmethod
    def finish(self, residual: Tensor, context: Tensor) -> Tensor:
        """See `prefill.Block.finish`."""


class BlockStack(nn.Module, ABC):
    """Everything below the head: embeddings, blocks and the final norm.

    Args:
        rotary: angles of this network's positions.

    Attributes:
        route: where its parts and the head stand; ``None`` = all on one device.
    """

    def __init__(self, rotary: RotaryEmbedding) -> None:
        super().__init__()
        self.gradient_checkpointing = False
        self.route: Route | None = None
        self._rotary = rotary

    @property
    @abstractmethod
    def embedding_table(self) -> nn.Module:
        """Ids ``[B, T]`` to rows ``[B, T, D]``."""

    @property
    @abstractmethod
    def blocks(self) -> nn.ModuleList:
        """The blocks in order; each is a `prefill.Block` that can also be called."""

    @property
    @abstractmethod
    def final_norm(self) -> nn.Module:
        """What stands after the last block."""

    def forward(
        self,
        input_ids: Tensor | None,
        position_ids: Tensor,
        attention_mask: Tensor | None,
        store: KeyValueStore | AttendingStore | None = None,
        *,
        inputs_embeds: Tensor | None = None,
        hidden_states: list[Tensor] | None = None,
    ) -> Tensor:
        """Run the blocks.

        Args:
            input_ids: ``[B, T]`` int64; ``None`` where ``inputs_embeds`` ``[B, T, D]`` is given.
            position_ids: ``[B, R, T]`` int64.
            attention_mask: ``[B, 1, T, S]`` bool, True = visible; ``None`` = every key is.
            store: earlier keys and values; ``None`` for a single pass without a cache.
            inputs_embeds: ``[B, T, D]``, what to use instead of looking up ``input_ids``.
            hidden_states: if given, the input of each block and the final norm's output are
                appended, ``L + 1`` tensors ``[B, T, D]``, as transformers counts them.

        Returns:
            ``[B, T, D]`` after the final norm.
        """
        h, rotary = self._enter(input_ids, position_ids, inputs_embeds)
        route = self.route
        for layer, block in enumerate(self.blocks):
            if route is not None:
                h, rotary, attention_mask = route.to_block(layer, h, rotary, attention_mask)
            _collect(hidden_states, h)
            h = self._runner(block)(h, rotary, attention_mask, store)
        h = self.final_norm(h if route is None else route.to_norm(h))
        _collect(hidden_states, h)
        return h

    def prefill(
        self, input_ids: Tensor, position_ids: Tensor, rows: PrefillRows, chunk_size: int
    ) -> Generator[None, None, Tensor]:
        """Fill one slot of the KV cache in short steps; see `glm_runtime_torch.network.prefill`.

        Returns:
            ``[1, 1, D]``: the last token after the final norm.
        """
        h, rotary = self._enter(input_ids, position_ids)
        route = self.route
        h = yield from prefill_blocks(
            self.blocks,  # type: ignore[arg-type]  # every family's blocks are such
            h,
            rotary,
            rows,
            chunk_size,
            route,
        )
        return self.final_norm(h if route is None else route.to_norm(h))

    def _enter(
        self, input_ids: Tensor | None, position_ids: Tensor, inputs_embeds: Tensor | None = None
    ) -> tuple[Tensor, Rotary]:
        h = self.embedding_table(input_ids) if inputs_embeds is None else inputs_embeds
        wanted: Tensor = self.final_norm.weight  # type: ignore[assignment]  # every norm has one
        h = h.to(wanted.dtype)  # quantised embeddings come out in their scales' dtype
        return h, self._rotary.of_positions(position_ids, h.dtype)

    def _runner(self, block: nn.Module) -> Callable[..., Tensor]:
        """The block itself, or with gradient checkpointing (as transformers switches it on) around it."""
        if self.gradient_checkpointing and self.training:
            checkpoint: Callable[..., Tensor] = self._gradient_checkpointing_func  # type: ignore[assignment]
            return partial(checkpoint, block)
        return block


class CausalHead(nn.Module, ABC):
    """A language model over a `BlockStack`, as `LanguageModel` asks for."""

    transformer: BlockStack

    @property
    @abstractmethod
    def head(self) -> nn.Module:
        """Hidden states ``[..., D]`` to logits ``[..., V]``."""

    def forward(
        self,
        input_ids: Tensor,
        position_ids: Tensor,
        attention_mask: Tensor | None,
        store: KeyValueStore | AttendingStore | None = None,
        *,
        wanted: Tensor | None = None,
    ) -> Tensor:
        """Logits ``[B, T, V]`` of every position; see `BlockStack.forward`.

        With ``wanted`` ``[B, T]`` bool, logits ``[n, V]`` of those positions alone, row by row.
        """
        h = self.transformer(input_ids, position_ids, attention_mask, store)
        return self.to_logits(h if wanted is None else h[wanted.to(h.device)])

    def to_logits(self, h: Tensor) -> Tensor:
        """Logits ``[..., V]`` of hidden states ``[..., D]`` after the final norm, on the head's device."""
        route = self.transformer.route
        return self.head(h if route is None else route.to_head(h))

    def prefill(
        self, input_ids: Tensor, position_ids: Tensor, rows: PrefillRows, chunk_size: int
    ) -> Generator[None, None, Tensor]:
        """Take in one prompt in short steps; see `LanguageModel`."""
        h = yield from self.transformer.prefill(input_ids, position_ids, rows, chunk_size)
        return self.to_logits(h[0])

    def decode(self, input_ids: Tensor, position_ids: Tensor, rows: AttendingStore) -> Tensor:
        """Return logits ``[B, T, V]`` after T more tokens a row; see `LanguageModel`."""
        return self.to_logits(self.transformer(input_ids, position_ids, None, rows))


def language_model_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Mean cross entropy of ``logits`` ``[B, T, V]`` at t against ``labels`` ``[B, T]`` at t + 1.

    Computed in float32; labels of -100 do not count.
    """
    predictions = logits[:, :-1].float().flatten(0, 1)
    return F.cross_entropy(predictions, labels[:, 1:].flatten(), ignore_index=IGNORED_LABEL)


def _collect(hidden_states: list[Tensor] | None, h: Tensor) -> None:
    if hidden_states is not None:
        hidden_states.append(h)
