"""Positions of the tokens of a sequence, and what they see of one another.

Axes: B batch · S tokens · R position rows
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from .attention import build_visibility_mask


class SequenceLayout(Protocol):
    """Positions and visibility of one sequence; found once, asked at every step."""

    @property
    def context_length(self) -> int:
        """How many leading tokens see each other in both directions; 0 if causal."""
        ...

    def compute_position_ids(self, start: int, stop: int) -> Tensor:
        """Return positions ``[R, stop - start]`` of those tokens, prompt and answer counted together."""
        ...


@dataclass(frozen=True)
class CausalLayout:
    """Positions and visibility of one unpadded sequence of a causal family; nothing sees what follows.

    Attributes:
        rows: R; the first row counts from 0, the others are 0 (channels that carry no position).
        context_length: see `SequenceLayout`.
    """

    rows: int = 1
    context_length: int = 0

    def compute_position_ids(self, start: int, stop: int) -> Tensor:
        """Return positions ``[R, stop - start]`` int64 of those tokens; see `SequenceLayout`."""
        positions = torch.zeros(self.rows, stop - start, dtype=torch.int64)
        positions[0] = torch.arange(start, stop)
        return positions


def lay_out_batch(
    find_layout: Callable[[Sequence[int]], SequenceLayout],
    input_ids: Tensor,
    padding: Tensor | None = None,
    *,
    start: int = 0,
) -> tuple[Tensor, Tensor]:
    """Return positions and visibility of whole, possibly left- or right-padded sequences.

    Args:
        find_layout: the layout of one sequence's tokens; a network's ``find_layout``.
        input_ids: ``[B, S]`` int64.
        padding: ``[B, S]`` bool, True = padding; ``None`` = none is.
        start: leave out the queries before this index.

    Returns:
        ``position_ids`` ``[B, R, S - start]`` (0 on padding) and the visibility mask
        ``[B, 1, S - start, S]``.

    Raises:
        ValueError: a row lacks tokens that the family needs to find its layout.
    """
    B, S = input_ids.shape
    positions: list[Tensor] = []
    bidirectional = torch.zeros(B, dtype=torch.int64)
    for row, ids in enumerate(input_ids.tolist()):
        first, stop = (0, S) if padding is None else _find_real_span(padding[row])
        layout = find_layout(ids[first:stop])
        real = layout.compute_position_ids(0, stop - first)
        positions.append(torch.nn.functional.pad(real, (first, S - stop)))
        bidirectional[row] = first + layout.context_length
    queries = torch.arange(start, S).expand(B, S - start)
    mask = build_visibility_mask(queries, bidirectional, S, None if padding is None else padding.cpu())
    position_ids = torch.stack(positions)[..., start:]
    return position_ids.to(input_ids.device), mask.to(input_ids.device)


def _find_real_span(padding: Tensor) -> tuple[int, int]:
    """Return start and stop of the tokens of a row that are no padding; ``padding`` is ``[S]`` bool."""
    real = (~padding).nonzero().flatten().tolist()
    return (real[0], real[-1] + 1) if real else (0, 0)
