"""Layers for inference that compute with the kernel library, in the place of the runtime's layers.

A row's result does not depend on the other rows of the batch, bit for bit.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ._native import Native
from ._packed import DTYPES, GELU_TANH, NO_ACTIVATION, PackedMatrix, pack_dense, pack_quantized

# How many inputs share a scale where activations are quantised to int8 for integer products, by the bits of
# the weights. Their rounding adds an error of 0.5 to 0.7 % (groups of 32 to 128) on Gaussian inputs, and of
# 1.1 to 2.1 % where a few channels are 50 times larger. int4 weights have an error of 10 to 16 % themselves,
# so they get the fastest group; int8 weights have one of 0.9 %, so they get the most exact group.
ACTIVATION_GROUPS = {4: 128, 8: 32}


def choose_activation_group(wanted: int | None, bits: int, group_size: int) -> int:
    """Return how many activations share a scale in front of some weights; at most as many as weights do.

    Args:
        wanted: a multiple of 32; 0 leaves activations as they are; ``None`` takes `ACTIVATION_GROUPS`.
        bits: of the weights.
        group_size: inputs that share a scale of the weights; 0 = a row.

    Raises:
        ValueError: the library has no kernel for such a group.
    """
    wanted = ACTIVATION_GROUPS[bits] if wanted is None else wanted
    if wanted % 32 or wanted < 0:
        raise ValueError(f"activations are quantised in groups of a multiple of 32, got {wanted}")
    group = min(wanted, group_size) if group_size else wanted
    if group and group_size % group:
        raise ValueError(f"groups of {group} activations do not divide groups of {group_size} weights")
    return group


class NativeLinear(nn.Module):
    """A linear layer over a packed matrix.

    Where a gradient is needed, or the input has a dtype that the library does not know, the matrix is
    dequantised at each call, which is slow.

    Args:
        matrix: the weights and bias.
        act_group: see `PackedMatrix.multiply`.
    """

    def __init__(self, matrix: PackedMatrix, act_group: int = 0) -> None:
        super().__init__()
        self.in_features, self.out_features = matrix.in_features, matrix.out_features
        self.act_group = act_group
        self.matrix = matrix
        self.packed = matrix.parameter

    @classmethod
    def from_dense(cls, native: Native, weight: Tensor, bias: Tensor | None) -> NativeLinear:
        """Return a layer of weights ``[out, in]`` in float32, bfloat16 or float16."""
        return cls(PackedMatrix(native, *pack_dense(native, weight, bias)))

    def forward(self, x: Tensor) -> Tensor:
        """Map ``[..., in]`` to ``[..., out]`` in the dtype of ``x``."""
        if self._computes(x):
            return self.matrix.multiply(x, self.act_group, NO_ACTIVATION)
        return self._compute_dequantized(x)

    def forward_gelu(self, x: Tensor) -> Tensor:
        """Map as `forward` does and apply the tanh-approximated GELU."""
        if self._computes(x):
            return self.matrix.multiply(x, self.act_group, GELU_TANH)
        return F.gelu(self._compute_dequantized(x), approximate="tanh")

    def extra_repr(self) -> str:
        """Return the sizes, for people who print the network."""
        return f"{self.in_features}, {self.out_features}, act_group={self.act_group}"

    def _computes(self, x: Tensor) -> bool:
        return x.dtype in DTYPES and not (x.requires_grad and torch.is_grad_enabled())

    def _compute_dequantized(self, x: Tensor) -> Tensor:
        weight, bias = (
            self.matrix.dequantize(x.dtype if x.dtype in DTYPES else torch.float32),
            self.matrix.get_bias(),
        )
        return F.linear(x, weight.to(x.dtype), None if bias is None else bias.to(x.dtype))


class NativeQuantizedLinear(NativeLinear):
    """A linear layer over packed integers."""

    @classmethod
    def from_stored(
        cls,
        native: Native,
        stored: Tensor,
        scale: Tensor,
        bias: Tensor | None,
        bits: int,
        group_size: int = 0,
        act_group: int | None = None,
    ) -> NativeQuantizedLinear:
        """Return a layer of stored integers; see `pack_quantized` and `choose_activation_group`."""
        matrix = PackedMatrix(native, *pack_quantized(native, stored, scale, bias, bits, group_size))
        return cls(matrix, choose_activation_group(act_group, bits, group_size))


class NativeEmbedding(nn.Module):
    """An embedding over a packed matrix, which the head may share.

    Args:
        matrix: whose rows are the embeddings.
        dtype: of the result.
    """

    def __init__(self, matrix: PackedMatrix, dtype: torch.dtype) -> None:
        super().__init__()
        self.num_embeddings, self.embedding_dim = matrix.out_features, matrix.in_features
        self.dtype = dtype
        self.matrix = matrix
        self.packed = matrix.parameter

    def forward(self, token_ids: Tensor) -> Tensor:
        """Return rows ``[..., embedding_dim]`` of ids ``[...]``."""
        return self.matrix.look_up(token_ids, self.dtype)
