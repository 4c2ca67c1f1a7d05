"""Layers over stored integers in plain PyTorch: the reference, right everywhere and fast nowhere."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .formats import check_format, compute_scale_shape, compute_stored_shape, dequantize_rows

# Weights that are dequantised at a time, because float32 copies of a whole matrix would take four times the
# memory of an int8 one.
PIECE_ELEMENTS = 2**24


class _Product(torch.autograd.Function):
    """A linear layer whose matrix is dequantised for the call and once more for the gradient.

    What is kept between the two are the integers, which the layer has anyway: of all layers' matrices
    one at a time is in memory. Only the input has a gradient.
    """

    @staticmethod
    def forward(
        context: Any,
        x: Tensor,
        stored: Tensor,
        scale: Tensor,
        bias: Tensor | None,
        bits: int,
        group_size: int,
    ) -> Tensor:
        """Map ``[..., in]`` to ``[..., out]``."""
        context.save_for_backward(stored, scale)
        context.bits, context.group_size = bits, group_size
        return F.linear(x, dequantize_matrix(stored, scale, bits, x.dtype, group_size), bias)

    @staticmethod
    def backward(context: Any, *gradients: Tensor) -> Any:
        """Return the gradient of the input, ``[..., out]`` to ``[..., in]``."""
        stored, scale = context.saved_tensors
        (gradient,) = gradients
        weight = dequantize_matrix(stored, scale, context.bits, gradient.dtype, context.group_size)
        return gradient @ weight, None, None, None, None, None


def dequantize_matrix(
    stored: Tensor, scale: Tensor, bits: int, dtype: torch.dtype, group_size: int = 0
) -> Tensor:
    """Return a large matrix as numbers, dequantised some rows at a time: temporaries stay small."""
    in_features = stored.shape[1] * (2 if bits == 4 else 1)
    step = max(1, PIECE_ELEMENTS // in_features)
    if len(stored) <= step:
        return dequantize_rows(stored, scale, bits, dtype, group_size)
    matrix = torch.empty(len(stored), in_features, dtype=dtype, device=stored.device)
    for start in range(0, len(stored), step):
        rows = slice(start, start + step)
        matrix[rows] = dequantize_rows(stored[rows], scale[rows], bits, dtype, group_size)
    return matrix


class QuantizedLinear(nn.Module):
    """A linear layer over stored integers; dequantises the whole matrix at every call.

    Gradients pass through it to its input; see `_Product` for what that costs.

    Attributes ``weight`` (int8), ``weight_scale`` and ``bias`` have the names of the published
    checkpoints.

    Args:
        in_features: columns of the matrix.
        out_features: rows of the matrix.
        bits: 8 or 4.
        bias: whether there is one.
        group_size: input features that share a scale; 0 = all of a row.

    Raises:
        ValueError: the format cannot store that.
    """

    def __init__(
        self, in_features: int, out_features: int, bits: int, *, bias: bool, group_size: int = 0
    ) -> None:
        super().__init__()
        check_format(bits, in_features, group_size)
        self.in_features, self.out_features = in_features, out_features
        self.bits, self.group_size = bits, group_size
        shape = out_features, in_features
        self.weight = _freeze(torch.empty(compute_stored_shape(shape, bits), dtype=torch.int8))
        self.weight_scale = _freeze(torch.empty(compute_scale_shape(shape, group_size)))
        self.bias = _freeze(torch.empty(out_features)) if bias else None

    @classmethod
    def from_stored(
        cls, stored: Tensor, scale: Tensor, bias: Tensor | None, bits: int, group_size: int = 0
    ) -> QuantizedLinear:
        """Return a layer of stored integers and scales as `quantize_rows` returns them."""
        in_features = stored.shape[1] * (2 if bits == 4 else 1)
        with torch.device("meta"):
            layer = cls(in_features, stored.shape[0], bits, bias=bias is not None, group_size=group_size)
        layer.weight, layer.weight_scale = _freeze(stored), _freeze(scale.float())
        layer.bias = None if bias is None else _freeze(bias)
        return layer

    def forward(self, x: Tensor) -> Tensor:
        """Map ``[..., in]`` to ``[..., out]`` in the dtype of ``x``."""
        if x.requires_grad and torch.is_grad_enabled():
            product: Tensor = _Product.apply(
                x, self.weight, self.weight_scale, self.bias, self.bits, self.group_size
            )
            return product
        weight = dequantize_matrix(self.weight, self.weight_scale, self.bits, x.dtype, self.group_size)
        return F.linear(x, weight, self.bias)


class QuantizedEmbedding(nn.Module):
    """An embedding over stored integers; only the rows looked up are dequantised.

    Args:
        num_embeddings: rows of the table.
        embedding_dim: columns of the table.
        bits: 8 or 4.
        group_size: columns that share a scale; 0 = all of a row.
    """

    def __init__(self, num_embeddings: int, embedding_dim: int, bits: int, *, group_size: int = 0) -> None:
        super().__init__()
        check_format(bits, embedding_dim, group_size)
        self.num_embeddings, self.embedding_dim = num_embeddings, embedding_dim
        self.bits, self.group_size = bits, group_size
        shape = num_embeddings, embedding_dim
        self.weight = _freeze(torch.empty(compute_stored_shape(shape, bits), dtype=torch.int8))
        self.weight_scale = _freeze(torch.empty(compute_scale_shape(shape, group_size)))

    def forward(self, token_ids: Tensor) -> Tensor:
        """Return rows ``[..., embedding_dim]`` in the scales' dtype."""
        rows = token_ids.flatten()
        stored, scale = self.weight[rows], self.weight_scale[rows]
        found = dequantize_rows(stored, scale, self.bits, self.weight_scale.dtype, self.group_size)
        return found.unflatten(0, token_ids.shape)


def tie(embedding: QuantizedEmbedding, head: QuantizedLinear) -> None:
    """Let the head share the embedding's integers and scales."""
    head.weight, head.weight_scale = embedding.weight, embedding.weight_scale


def make_quantized_table(
    stored: Tensor, scale: Tensor, bits: int, group_size: int = 0
) -> tuple[QuantizedEmbedding, QuantizedLinear]:
    """Return an embedding (ids to rows) and a head (a linear layer) over one table ``[vocab, in]``.

    Args:
        stored: integers as `quantize_rows` returns them.
        scale: likewise.
        bits: 8 or 4.
        group_size: columns that share a scale; 0 = all of a row.
    """
    head = QuantizedLinear.from_stored(stored, scale, None, bits, group_size)
    with torch.device("meta"):
        embedding = QuantizedEmbedding(head.out_features, head.in_features, bits, group_size=group_size)
    embedding.weight, embedding.weight_scale = head.weight, head.weight_scale
    return embedding, head


def _freeze(tensor: Tensor) -> nn.Parameter:
    return nn.Parameter(tensor, requires_grad=False)
