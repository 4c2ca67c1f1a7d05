"""Stand-ins for what a GPU gives a backend: attention that takes tensors, and a recorder of steps."""

from __future__ import annotations

from collections.abc import Callable

import torch
from glm_runtime_torch.network.attention import compute_attention
from glm_runtime_torch.network.rotary import Rotary
from torch import Tensor


class TensorAttention:
    """`DecodeAttention` that reads slots and lengths on the device only, over every position of a slot."""

    takes_tensors = True

    def decode(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        cos: Tensor,
        sin: Tensor,
        keys: Tensor,
        values: Tensor,
        slots: Tensor,
        lengths: Tensor,
    ) -> Tensor:
        """See `glm_runtime_torch.network.attention.DecodeAttention.decode`."""
        rotary = Rotary(cos, sin)
        q, k = rotary.rotate(q), rotary.rotate(k)
        real = lengths > 0
        places = (lengths - 1).clamp(min=0)
        for cache, new in ((keys, k), (values, v)):
            kept = cache[slots, :, places]
            cache[slots, :, places] = torch.where(real[:, None, None], new[:, :, 0], kept)
        seen = torch.arange(keys.shape[2]) < lengths.clamp(min=1)[:, None]
        return compute_attention(q, keys[slots], values[slots], seen[:, None, None])


class RerunningRecorder:
    """Records a step by keeping it, and replays it by running it again into the same output.

    Like the real thing it reads its inputs from where they were when it was recorded, and overwrites what
    it returned before.
    """

    def __init__(self) -> None:
        self.recorded = 0
        self.replayed = 0
        self.fail: Exception | None = None

    def record(self, step: Callable[[], Tensor]) -> Callable[[], Tensor]:
        """See `glm_backend_cuda._executor.Recorder.record`."""
        self.recorded += 1
        if self.fail is not None:
            raise self.fail
        output = step().clone()

        def replay() -> Tensor:
            self.replayed += 1
            return output.copy_(step())

        return replay
