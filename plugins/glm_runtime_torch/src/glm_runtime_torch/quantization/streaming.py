"""Quantising a network whose weights are still in their files: one matrix at a time, in small pieces."""

from __future__ import annotations

import torch
from torch import Tensor

from glm_core.records import QuantizationScheme

from ..checkpoints.reader import Checkpoint
from ..network.language_model import LanguageModel
from .formats import check_format, quantize_pieces
from .layers import QuantizedLinear
from .network import check_linears, list_linears_to_quantize, replace_table

CPU = torch.device("cpu")


def quantize_stored(checkpoint: Checkpoint, name: str, scheme: QuantizationScheme) -> tuple[Tensor, Tensor]:
    """Return integers and scales of a stored matrix, read a piece at a time."""
    facts = checkpoint.get_facts(name)
    return quantize_pieces(
        checkpoint.read_row_pieces(name), facts.shape, facts.dtype, scheme.bits, scheme.group_size, device=CPU
    )


def quantize_from_files(
    network: LanguageModel,
    checkpoint: Checkpoint,
    scheme: QuantizationScheme,
    *,
    embeddings: QuantizationScheme | None,
    dtype: torch.dtype,
) -> None:
    """Quantise as `quantize_in_place` does; memory peaks at the result and a few MB.

    Args:
        network: on the meta device.
        checkpoint: holds its weights under the network's own names.
        scheme: of the blocks' linear layers.
        embeddings: of the embedding table and the head where they are one, else of the head alone;
            ``None`` leaves both.
        dtype: of biases.

    Raises:
        ValueError: a scheme does not suit the network; nothing was changed.
    """
    check_linears(network, scheme)
    is_tied = network.is_tied
    if embeddings is not None:
        check_format(embeddings.bits, network.dimensions.hidden_size, embeddings.group_size)
    for place, wanted in list_linears_to_quantize(network, scheme, embeddings):
        stored, scale = quantize_stored(checkpoint, f"{place.name}.weight", wanted)
        bias = None
        if place.module.bias is not None:
            bias = checkpoint.read(f"{place.name}.bias", dtype=dtype, device=CPU)
        place.replace(QuantizedLinear.from_stored(stored, scale, bias, wanted.bits, wanted.group_size))
    if is_tied and embeddings is not None:
        stored, scale = quantize_stored(checkpoint, f"{network.part_names.embedding}.weight", embeddings)
        replace_table(network, stored, scale, embeddings)
