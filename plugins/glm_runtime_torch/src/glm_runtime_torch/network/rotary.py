"""Rotary position embedding, computed from position ids instead of a stored table.

Computing the angles takes a few microseconds a forward pass and leaves nothing to
outgrow: a table would need a length, a device and a dtype of its own.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Rotary:
    """The angles of some tokens, computed once and used by every layer.

    Attributes:
        cos: ``[B, 1, T, R, H/R]`` in the dtype of queries and keys; R rows of positions share a head.
        sin: the same shape.
    """

    cos: Tensor
    sin: Tensor

    def rotate(self, x: Tensor) -> Tensor:
        """Rotate queries or keys ``[B, N, T, H]``."""
        rows = x.unflatten(-1, self.cos.shape[-2:])  # [B, N, T, R, H/R]
        return rotate_split_half(rows, self.cos, self.sin).flatten(-2)

    def select_tokens(self, start: int, stop: int) -> Rotary:
        """Return the angles of some of the tokens."""
        return Rotary(self.cos[:, :, start:stop], self.sin[:, :, start:stop])


class RotaryEmbedding:
    """Angles of ``rotary_dim`` channels for one or several rows of positions.

    Not an ``nn.Module``: it owns no weights, and buffers of a module built on the meta
    device would hold garbage after loading. Source: RoFormer, arXiv:2104.09864.

    Args:
        rotary_dim: channels that one row of positions rotates; even.
        base: frequency of channel pair ``i`` is ``base ** (-2 * i / rotary_dim)``.
        interpolation: positions are divided by it (position interpolation, arXiv:2306.15595).
        half_precision_frequencies: round the frequencies to float16, whatever the model's
            dtype. ChatGLM-6B does so in its constructor, and its weights were trained with it.
    """

    def __init__(
        self,
        rotary_dim: int,
        *,
        base: float = 10000.0,
        interpolation: float = 1.0,
        half_precision_frequencies: bool = False,
    ) -> None:
        exponents = torch.arange(0, rotary_dim, 2, dtype=torch.float32, device="cpu") / rotary_dim
        frequencies = 1.0 / base**exponents / interpolation
        self._half_precision = half_precision_frequencies
        self._frequencies = {
            torch.device("cpu"): frequencies.half() if half_precision_frequencies else frequencies
        }

    def compute_rotary(self, position_ids: Tensor, dtype: torch.dtype) -> Rotary:
        """Return the angles of tokens at ``[B, R, T]`` positions; ``dtype`` as in `compute_cos_sin`."""
        cos, sin = self.compute_cos_sin(position_ids, dtype)  # [B, R, T, H/R]
        return Rotary(cos.transpose(1, 2).unsqueeze(1), sin.transpose(1, 2).unsqueeze(1))

    def compute_cos_sin(self, position_ids: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """Return cosine and sine for every position.

        Args:
            position_ids: integer tensor of any shape ``[...]``.
            dtype: dtype of the result. In float16 the angles themselves are rounded to
                float16 where the frequencies are, as the original does; in bfloat16 they are
                computed in float32, because bfloat16 cannot tell positions above 256 apart.

        Returns:
            Two tensors ``[..., rotary_dim]``, the frequencies repeated once (split-half form).
        """
        frequencies = self._get_frequencies(position_ids.device)
        if self._half_precision and dtype == torch.float16:
            angles = position_ids.to(torch.float16).unsqueeze(-1) * frequencies
        else:
            angles = position_ids.to(torch.float32).unsqueeze(-1) * frequencies.float()
        angles = torch.cat((angles, angles), dim=-1)  # [..., rotary_dim]
        return angles.cos().to(dtype), angles.sin().to(dtype)

    def _get_frequencies(self, device: torch.device) -> Tensor:
        if device not in self._frequencies:
            self._frequencies[device] = self._frequencies[torch.device("cpu")].to(device)
        return self._frequencies[device]


def rotate_split_half(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotate channel ``i`` together with channel ``i + d/2``; all tensors end in ``d``."""
    first, second = x.chunk(2, dim=-1)
    return x * cos + torch.cat((-second, first), dim=-1) * sin
