"""What the families with blocks of ours share: the way of hidden states through the blocks to logits.

A family's own module says what its blocks compute and where its parts stand; nothing here knows a
family's name.

Axes: B batch · T new tokens · S key positions · D hidden · V vocabulary · R position rows · L layers
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Sequence
from typing import Any, cast

from torch import Tensor, nn
from torch.nn import functional as F

from .attention import AttendingStore, KeyValueStore, attend
from .kv_cache import PrefillRows
from .language_model import Dimensions, LanguageModel
from .prefill import prefill_blocks
from .rotary import Rotary, RotaryEmbedding

IGNORED_LABEL = -100  # torch's and transformers' own number for it


class DecoderBlock(nn.Module, ABC):
    """One transformer block in the two halves of `prefill.PrefillBlock`; attention stands between.

    Args:
        layer: its number.

    Attributes:
        gradient_checkpointing: whether training forgets what is inside the block and computes it again
            for the gradients. Set, with the function that does it, as transformers sets it on its blocks.
    """

    def __init__(self, layer: int) -> None:
        super().__init__()
        self.layer = layer
        self.gradient_checkpointing = False
        self._gradient_checkpointing_func: Callable[..., Tensor] | None = None

    def __call__(self, *arguments: Any) -> Tensor:
        """Run the block, while training with gradient checkpointing if that is switched on."""
        if self.gradient_checkpointing and self.training:
            assert self._gradient_checkpointing_func is not None
            return self._gradient_checkpointing_func(super().__call__, *arguments)
        return super().__call__(*arguments)

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
        """Return residual, queries, keys and values; see `prefill.PrefillBlock.project`."""

    @abstractmethod
    def finish(self, residual: Tensor, context: Tensor) -> Tensor:
        """Return the block's output; see `prefill.PrefillBlock.finish`."""


class DecoderModel(LanguageModel):
    """A network of `DecoderBlock`: the way of hidden states from tokens through the blocks to logits.

    Args:
        dimensions: its sizes.
        rotary: angles of its positions.
    """

    def __init__(self, dimensions: Dimensions, rotary: RotaryEmbedding) -> None:
        super().__init__(dimensions)
        self._rotary = rotary

    def forward(
        self,
        input_ids: Tensor,
        position_ids: Tensor,
        attention_mask: Tensor | None,
        store: KeyValueStore | AttendingStore | None = None,
        *,
        wanted: Tensor | None = None,
    ) -> Tensor:
        """Return logits; see `LanguageModel.forward`."""
        h = self.compute_hidden_states(input_ids, position_ids, attention_mask, store)
        return self.compute_logits(h if wanted is None else h[wanted.to(h.device)])

    def prefill(
        self, input_ids: Tensor, position_ids: Tensor, rows: PrefillRows, chunk_size: int
    ) -> Generator[None, None, Tensor]:
        """Take in one prompt in short steps; see `LanguageModel.prefill` and `prefill.prefill_blocks`."""
        h, rotary = self._embed(input_ids, position_ids)
        route = self.route
        blocks = cast("Sequence[DecoderBlock]", self.blocks)
        h = yield from prefill_blocks(blocks, h, rotary, rows, chunk_size, route)
        h = self.final_norm(h if route is None else route.to_norm(h))
        return self.compute_logits(h[0])

    def decode(self, input_ids: Tensor, position_ids: Tensor, rows: AttendingStore) -> Tensor:
        """Return logits ``[B, T, V]`` after T more tokens a row; see `LanguageModel.decode`."""
        return self.compute_logits(self.compute_hidden_states(input_ids, position_ids, None, rows))

    def compute_hidden_states(
        self,
        input_ids: Tensor | None,
        position_ids: Tensor,
        attention_mask: Tensor | None,
        store: KeyValueStore | AttendingStore | None = None,
        *,
        inputs_embeds: Tensor | None = None,
        collected: list[Tensor] | None = None,
    ) -> Tensor:
        """Run the blocks and the final norm.

        Args:
            input_ids: ``[B, T]`` int64; ``None`` where ``inputs_embeds`` is given.
            position_ids: ``[B, R, T]`` int64.
            attention_mask: ``[B, 1, T, S]`` bool, True = visible; ``None`` = every key is.
            store: earlier keys and values; ``None`` for a single pass without a cache.
            inputs_embeds: ``[B, T, D]``, what to use instead of looking up ``input_ids``.
            collected: if given, the input of each block and the final norm's output are
                appended, ``L + 1`` tensors ``[B, T, D]``, as transformers counts them.

        Returns:
            ``[B, T, D]`` after the final norm.
        """
        h, rotary = self._embed(input_ids, position_ids, inputs_embeds)
        route = self.route
        for layer, block in enumerate(self.blocks):
            if route is not None:
                h, rotary, attention_mask = route.to_block(layer, h, rotary, attention_mask)
            if collected is not None:
                collected.append(h)
            h = block(h, rotary, attention_mask, store)
        h = self.final_norm(h if route is None else route.to_norm(h))
        if collected is not None:
            collected.append(h)
        return h

    def compute_logits(self, h: Tensor) -> Tensor:
        """Return logits ``[..., V]`` of ``[..., D]`` after the final norm, on the head's device."""
        return self.head(h if self.route is None else self.route.to_head(h))

    def _embed(
        self, input_ids: Tensor | None, position_ids: Tensor, inputs_embeds: Tensor | None = None
    ) -> tuple[Tensor, Rotary]:
        h = self.embedding(input_ids) if inputs_embeds is None else inputs_embeds
        wanted = cast("Tensor", self.final_norm.weight)  # every norm has one
        h = h.to(wanted.dtype)  # quantised embeddings come out in their scales' dtype
        return h, self._rotary.compute_rotary(position_ids, h.dtype)


def compute_language_model_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Return the mean cross entropy of ``logits`` ``[B, T, V]`` at t against ``labels`` ``[B, T]`` at t + 1.

    Computed in float32; labels of -100 do not count.
    """
    predictions = logits[:, :-1].float().flatten(0, 1)
    return F.cross_entropy(predictions, labels[:, 1:].flatten(), ignore_index=IGNORED_LABEL)
