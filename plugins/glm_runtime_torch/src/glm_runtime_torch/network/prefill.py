"""Prefill in short steps, so that a long prompt never stalls the answers that are running.

A prompt cannot simply be cut by tokens: where the context sees itself in both directions, its
first token needs the keys of its last. So the blocks are walked one by one, and within each the
tokens chunk by chunk: first every chunk's keys and values, then every chunk's attention. The
arithmetic of a token is the same as in one pass.

Axes: T tokens of the prompt · D hidden · N query heads · G key/value heads · H head dim
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from typing import Protocol

from torch import Tensor

from .kv_cache import PrefillRows
from .rotary import Rotary
from .route import DeviceRoute


class PrefillBlock(Protocol):
    """One transformer block in two halves, each of which works token by token."""

    def project(self, h: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return what `finish` adds to ``[1, t, D]``, and queries, keys, values ``[1, N or G, t, H]``."""
        ...

    def finish(self, residual: Tensor, context: Tensor) -> Tensor:
        """Return the block's output ``[1, t, D]`` from the residual and the context ``[1, t, N * H]``."""
        ...


def prefill_blocks(
    blocks: Sequence[PrefillBlock],
    h: Tensor,
    rotary: Rotary,
    rows: PrefillRows,
    chunk_size: int,
    route: DeviceRoute | None = None,
) -> Generator[None, None, Tensor]:
    """Run a prompt through all blocks, pausing after every chunk.

    Args:
        blocks: in order.
        h: embeddings ``[1, T, D]``; overwritten.
        rotary: angles of all T tokens.
        rows: where keys and values go.
        chunk_size: tokens between two pauses at most.
        route: where the blocks stand; ``None`` = all on one device.

    Returns:
        ``[1, 1, D]``: the last token after the last block; of the others nothing is needed there.
    """
    length = h.shape[1]
    chunks = [(start, min(start + chunk_size, length)) for start in range(0, length, chunk_size)]
    for layer, block in enumerate(blocks):
        if route is not None:
            h, rotary, _ = route.to_block(layer, h, rotary)
        queries: list[Tensor] = []
        for start, stop in chunks:
            residual, q, k, v = block.project(h[:, start:stop])
            angles = rotary.select_tokens(start, stop)
            rows.put(angles.rotate(k), v, layer, start)
            queries.append(angles.rotate(q))
            h[:, start:stop] = residual
            if len(chunks) > 1:  # a prompt of one piece pauses once a block, after its attention
                yield
        if layer == len(blocks) - 1:
            return block.finish(h[:, -1:], rows.attend(queries[-1][:, :, -1:], layer, length - 1))
        for (start, stop), q in zip(chunks, queries, strict=True):
            h[:, start:stop] = block.finish(h[:, start:stop], rows.attend(q, layer, start))
            yield
    return h[:, -1:]  # a network without blocks
