"""Quantising a network whose weights are still in their files: one matrix at a time, in small pieces."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

import torch
from torch import Tensor, nn

from glm_core.records import QuantizationScheme

from .formats import check_format, quantize_pieces
from .layers import QuantizedLayers
from .network import check_linears, linears_to_quantize, put_table, tied_table, untied_head

CPU = torch.device("cpu")


class Facts(Protocol):
    """What is known of a stored tensor without reading it."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Its shape."""
        ...

    @property
    def dtype(self) -> torch.dtype:
        """Its dtype."""
        ...


class Weights(Protocol):
    """What is asked of a checkpoint; `glm_runtime_torch.checkpoints.reader.Checkpoint` is one."""

    def facts(self, name: str) -> Facts:
        """Shape and dtype of a tensor."""
        ...

    def row_pieces(self, name: str) -> Iterator[tuple[int, Tensor]]:
        """Some rows at a time."""
        ...

    def read(self, name: str, *, dtype: torch.dtype, device: torch.device) -> Tensor:
        """A whole tensor."""
        ...


def quantize_stored(weights: Weights, name: str, scheme: QuantizationScheme) -> tuple[Tensor, Tensor]:
    """Integers and scales of a stored matrix, read a piece at a time."""
    facts = weights.facts(name)
    return quantize_pieces(
        weights.row_pieces(name), facts.shape, facts.dtype, scheme.bits, scheme.group_size, device=CPU
    )


def quantize_from_files(
    network: nn.Module,
    weights: Weights,
    scheme: QuantizationScheme,
    layers: QuantizedLayers,
    *,
    embeddings: QuantizationScheme | None,
    dtype: torch.dtype,
) -> None:
    """Like `glm_runtime_torch.quantization.quantize_in_place`; memory peaks at the result and a few MB.

    Args:
        network: on the meta device.
        weights: holds its weights under the network's own names.
        scheme: of the blocks' linear layers.
        layers: makes the new modules.
        embeddings: of the embedding table and the head where they are one, else of the head alone;
            ``None`` leaves both.
        dtype: of biases.

    Raises:
        ValueError: a scheme does not suit the network; nothing was changed.
    """
    check_linears(network, scheme)
    table, head = (tied_table(network), untied_head(network)) if embeddings is not None else (None, None)
    if table is not None and embeddings is not None:
        check_format(embeddings.bits, table[0].module.embedding_dim, embeddings.group_size)
    if head is not None and embeddings is not None:
        check_format(embeddings.bits, head.module.in_features, embeddings.group_size)
    for place, wanted in linears_to_quantize(network, scheme, head, embeddings):
        stored, scale = quantize_stored(weights, f"{place.name}.weight", wanted)
        bias = None
        if place.module.bias is not None:
            bias = weights.read(f"{place.name}.bias", dtype=dtype, device=CPU)
        place.put(layers.linear(stored, scale, bias, wanted.bits, wanted.group_size))
    if table is not None and embeddings is not None:
        stored, scale = quantize_stored(weights, f"{table[0].name}.weight", embeddings)
        put_table(table, stored, scale, embeddings, layers)
