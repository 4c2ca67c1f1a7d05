"""Weight-only quantisation: the original's format, and a plain PyTorch layer that computes with it.

Symmetric, one scale per output row. int8 stores one signed byte a weight; int4 stores two signed
nibbles a byte, the even column in the high one. Names of the tensors (``weight``,
``weight_scale``, ``bias``) and their layout are those of the published quantised checkpoints, so
these files load as they are. Backends that own a kernel replace the layer and keep the format.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

BITS = (8, 4)
PIECE_ELEMENTS = 2**20


def quantize_rows(weight: Tensor, bits: int) -> tuple[Tensor, Tensor]:
    """Quantise a matrix row by row, bit-equal to the original in float16 and float32.

    Args:
        weight: ``[out, in]`` float16, bfloat16 or float32.
        bits: 8 or 4; 4 needs an even number of input features.

    Returns:
        Stored integers, int8 ``[out, in]`` or ``[out, in / 2]``, and scales ``[out]`` in the
        weight's dtype. A row of zeros has scale 0 and zeros.

    Raises:
        ValueError: other bits, or an odd number of input features for int4.
    """
    rows = max(1, PIECE_ELEMENTS // weight.shape[1])  # a few rows at a time: temporaries stay small
    pieces = ((start, weight[start : start + rows]) for start in range(0, weight.shape[0], rows))
    return quantize_pieces(pieces, weight.shape, weight.dtype, bits, weight.device)


def quantize_pieces(
    pieces: Iterable[tuple[int, Tensor]],
    shape: Sequence[int],
    dtype: torch.dtype,
    bits: int,
    device: torch.device,
) -> tuple[Tensor, Tensor]:
    """`quantize_rows` of a matrix that is never whole in memory.

    Args:
        pieces: index of the first row, and some whole rows ``[n, in]``; together all rows.
        shape: ``(out, in)``.
        dtype: of the rows.
        bits: 8 or 4.
        device: of the result.
    """
    out_features, in_features = shape
    check_bits(bits, in_features)
    columns = in_features // 2 if bits == 4 else in_features
    stored = torch.empty(out_features, columns, dtype=torch.int8, device=device)
    scale = torch.empty(out_features, dtype=dtype, device=device)
    for start, rows in pieces:
        row_scale = rows.abs().amax(dim=1) / (2 ** (bits - 1) - 1)
        divisor = torch.where(row_scale == 0, torch.ones_like(row_scale), row_scale)
        integers = (rows / divisor.unsqueeze(1)).round().to(torch.int8)
        stored[start : start + len(rows)] = pack_int4(integers) if bits == 4 else integers
        scale[start : start + len(rows)] = row_scale
    return stored, scale


def dequantize_rows(stored: Tensor, scale: Tensor, bits: int, dtype: torch.dtype) -> Tensor:
    """The matrix ``[out, in]`` that stored integers and scales stand for, multiplied in float32."""
    integers = unpack_int4(stored) if bits == 4 else stored
    return (integers.float() * scale.float().unsqueeze(1)).to(dtype)


def pack_int4(integers: Tensor) -> Tensor:
    """Pack int8 ``[out, in]`` with values -8..7 into int8 ``[out, in / 2]``."""
    high, low = integers[:, 0::2], integers[:, 1::2]
    return (high << 4) | (low & 15)


def unpack_int4(packed: Tensor) -> Tensor:
    """Undo `pack_int4`; shifts of signed bytes extend the sign."""
    return torch.stack((packed >> 4, (packed << 4) >> 4), dim=-1).flatten(1)


def check_bits(bits: int, in_features: int) -> None:
    """Refuse what the format cannot store."""
    if bits not in BITS:
        raise ValueError(f"bits must be 8 or 4, got {bits}")
    if bits == 4 and in_features % 2:
        raise ValueError(f"int4 packs two input features into a byte; {in_features} is odd")


class QuantizedLinear(nn.Module):
    """A linear layer over stored integers; dequantises the whole matrix at every call.

    The reference: right everywhere, fast nowhere.

    Args:
        in_features: columns of the matrix.
        out_features: rows of the matrix.
        bits: 8 or 4.
        bias: whether there is one.
    """

    def __init__(self, in_features: int, out_features: int, bits: int, *, bias: bool) -> None:
        super().__init__()
        check_bits(bits, in_features)
        self.bits = bits
        columns = in_features // 2 if bits == 4 else in_features
        self.weight = _frozen(torch.empty(out_features, columns, dtype=torch.int8))
        self.weight_scale = _frozen(torch.empty(out_features))
        self.bias = _frozen(torch.empty(out_features)) if bias else None

    @classmethod
    def from_stored(cls, stored: Tensor, scale: Tensor, bias: Tensor | None, bits: int) -> QuantizedLinear:
        """A layer of stored integers ``[out, in]`` or ``[out, in / 2]`` and scales ``[out]``."""
        in_features = stored.shape[1] * (2 if bits == 4 else 1)
        with torch.device("meta"):
            layer = cls(in_features, stored.shape[0], bits, bias=bias is not None)
        layer.weight, layer.weight_scale = _frozen(stored), _frozen(scale.float())
        layer.bias = None if bias is None else _frozen(bias)
        return layer

    def forward(self, x: Tensor) -> Tensor:
        """Map ``[..., in]`` to ``[..., out]`` in the dtype of ``x``."""
        return F.linear(x, dequantize_rows(self.weight, self.weight_scale, self.bits, x.dtype), self.bias)


class QuantizedEmbedding(nn.Module):
    """An embedding over stored integers; only the rows looked up are dequantised."""

    def __init__(self, num_embeddings: int, embedding_dim: int, bits: int) -> None:
        super().__init__()
        check_bits(bits, embedding_dim)
        self.bits = bits
        columns = embedding_dim // 2 if bits == 4 else embedding_dim
        self.weight = _frozen(torch.empty(num_embeddings, columns, dtype=torch.int8))
        self.weight_scale = _frozen(torch.empty(num_embeddings))

    def forward(self, token_ids: Tensor) -> Tensor:
        """Rows ``[..., embedding_dim]`` in the scales' dtype."""
        rows = token_ids.flatten()
        found = dequantize_rows(
            self.weight[rows], self.weight_scale[rows], self.bits, self.weight_scale.dtype
        )
        return found.unflatten(0, token_ids.shape)


def block_linears(network: nn.Module) -> Iterator[tuple[str, nn.Module, str, nn.Linear]]:
    """The linear layers inside the blocks, which are what is quantised: name, parent, attribute, layer."""
    for parent_name, parent in network.named_modules():
        if ".layers." not in f".{parent_name}.":
            continue
        for attribute, child in list(parent.named_children()):
            if isinstance(child, nn.Linear):
                yield f"{parent_name}.{attribute}", parent, attribute, child


def expect_stored_form(network: nn.Module, config: Mapping[str, Any]) -> None:
    """Put empty quantised layers where a checkpoint's ``config.json`` says it holds quantised ones.

    Args:
        network: a language model with ``transformer.word_embeddings`` and ``lm_head``.
        config: keys ``quantization_bit`` (0 or absent = none) and ``quantization_embeddings``.

    Raises:
        ValueError: other bits than 8 and 4.
    """
    bits = config.get("quantization_bit") or 0
    if not bits:
        return
    for _, parent, attribute, linear in block_linears(network):
        layer = QuantizedLinear(linear.in_features, linear.out_features, bits, bias=linear.bias is not None)
        setattr(parent, attribute, layer)
    if config.get("quantization_embeddings"):
        model: Any = network
        table = model.transformer.word_embeddings
        embedding = QuantizedEmbedding(table.num_embeddings, table.embedding_dim, bits)
        head = QuantizedLinear(table.embedding_dim, table.num_embeddings, bits, bias=False)
        head.weight, head.weight_scale = embedding.weight, embedding.weight_scale  # tied, as stored
        model.transformer.word_embeddings, model.lm_head = embedding, head


LayerFactory = Callable[[Tensor, Tensor, Tensor | None, int], nn.Module]
"""Makes a layer of stored integers, scales, bias and bits, as `QuantizedLinear.from_stored` does."""


def quantize_in_place(
    network: nn.Module, bits: int, make_layer: LayerFactory = QuantizedLinear.from_stored
) -> None:
    """Quantise the blocks of a network whose weights are in memory, one layer at a time."""
    for _, parent, attribute, linear in block_linears(network):
        bias = None if linear.bias is None else linear.bias.detach()
        setattr(parent, attribute, make_layer(*quantize_rows(linear.weight.detach(), bits), bias, bits))


def _frozen(tensor: Tensor) -> nn.Parameter:
    return nn.Parameter(tensor, requires_grad=False)
