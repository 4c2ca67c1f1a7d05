"""What tests of all backends need: random matrices, random decode steps, a tiny model to place."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from glm_runtime_torch.backends import (
    TorchDecodeAttention,
    TorchModel,
    quantize_model,
    quantize_rows,
    takes_tensors,
)
from glm_runtime_torch.loading import open_source
from torch import Tensor

from glm_core import ChatRequest, Message, Sampling
from glm_core.records import ModelSource, QuantizationScheme


def random_matrix(out: int, columns: int, bits: int, group_size: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """Stored integers, scales and bias of a random matrix."""
    torch.manual_seed(out)
    return (*quantize_rows(torch.randn(out, columns), bits, group_size), torch.randn(out))


def relative_error(found: Tensor, wanted: Tensor) -> float:
    """Norm of the difference over the norm of what is wanted, of a whole result."""
    return float((found.double() - wanted.double()).norm() / wanted.double().norm())


class DecodeStep:
    """Random inputs of one decode step over a cache of three slots more than there are rows.

    Args:
        shape: query heads, key heads, head dim, and rotated parts of a head.
        lengths: of the rows.
        dtype: of queries, keys, values and the cache.
        capacity: positions of a slot.
    """

    def __init__(
        self, shape: tuple[int, int, int, int], lengths: list[int], dtype: torch.dtype, capacity: int
    ) -> None:
        N, G, H, R = shape
        B = len(lengths)
        generator = torch.Generator().manual_seed(N * H + B)

        def random(*sizes: int) -> Tensor:
            return torch.randn(sizes, generator=generator).to(dtype)

        fused = random(B, 1, G, (N // G + 2) * H).transpose(1, 2)  # as one projection makes them
        queries = fused[..., : N // G * H]
        self.q = queries.reshape(*queries.shape[:-1], -1, H).transpose(2, 3).flatten(1, 2)
        self.k, self.v = fused[..., -2 * H : -H], fused[..., -H:]
        angles = torch.rand(B, 1, 1, R, H // R // 2, generator=generator) * 6.3
        angles = torch.cat((angles, angles), dim=-1)
        self.cos, self.sin = angles.cos().to(dtype), angles.sin().to(dtype)
        self.keys, self.values = random(B + 3, G, capacity, H), random(B + 3, G, capacity, H)
        self.slots = [B + 2 - row for row in range(B)]
        self.lengths = lengths

    def run(self, attention: Any, rows: list[int]) -> Tensor:
        """The context of some of the rows; the cache is written."""
        whole = len(rows) == len(self.lengths)  # strides as a projection makes them, and not a copy's
        new = [tensor if whole else tensor[rows] for tensor in (self.q, self.k, self.v)]
        places: list[Any] = [[self.slots[row] for row in rows], [self.lengths[row] for row in rows]]
        if takes_tensors(attention):
            places = [torch.tensor(numbers) for numbers in places]
        found: Tensor = attention.decode(
            *new, self.cos[rows], self.sin[rows], self.keys, self.values, *places
        )
        return found

    def run_all(self, attention: Any) -> Tensor:
        """The context of every row."""
        return self.run(attention, list(range(len(self.lengths))))

    def exact(self) -> tuple[Tensor, Tensor, Tensor]:
        """Context, keys and values in float64, by the runtime's reference."""
        wide = (self.q, self.k, self.v, self.cos, self.sin, self.keys, self.values)
        q, k, v, cos, sin, keys, values = (tensor.double() for tensor in wide)
        context = TorchDecodeAttention().decode(q, k, v, cos, sin, keys, values, self.slots, self.lengths)
        return context, keys, values


def open_tiny(directory: Path, scheme: str | None, dtype: str) -> TorchModel:
    """A model before its placement, quantised if a scheme is named."""
    model = open_source(ModelSource("tiny", directory), dtype)
    assert model is not None
    if scheme is not None:
        assert quantize_model(model, QuantizationScheme.parse(scheme)) is model
    return model


def answer_and_close(model: TorchModel) -> list[int]:
    """Six greedy tokens of a placed model, which is closed."""
    request = ChatRequest((Message("user", "hello"),), Sampling(do_sample=False, max_new_tokens=6))
    tokens = [token for delta in model.stream(request) for token in delta.token_ids]
    model.close()
    return tokens
