"""What one step of the network is fed with.

Axes: B batch · k new tokens of a row · R position rows
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from ..adapters.adapter import Adapter


@dataclass(frozen=True, slots=True)
class StepInput:
    """One step of k tokens for each of B rows.

    A step may be repeated: the same keys and values are written to the same places again, and nothing
    else changes. So a step that failed can be run again with fewer rows, and tokens that were fed ahead
    and not confirmed are overwritten by those that follow.

    Attributes:
        token_ids: k for each row.
        position_ids: ``[B, R, k]`` int64 on the CPU.
        slots: slot of the KV cache of each row.
        lengths: positions of each row, adapters' and the k new tokens' included.
        adapters: for each row, the adapters that act in this step; most often none, since a prefix is in
            the row's slot.
    """

    token_ids: Sequence[Sequence[int]]
    position_ids: Tensor
    slots: Sequence[int]
    lengths: Sequence[int]
    adapters: Sequence[tuple[Adapter, ...]]

    @property
    def num_tokens(self) -> int:
        """How many tokens each row has, k."""
        return len(self.token_ids[0])

    def select_tokens(self, start: int, stop: int) -> StepInput:
        """Return the step of tokens ``start`` to ``stop`` of every row; those before must have run."""
        following = self.num_tokens - stop
        return StepInput(
            [row[start:stop] for row in self.token_ids],
            self.position_ids[:, :, start:stop],
            self.slots,
            [length - following for length in self.lengths],
            self.adapters,
        )
