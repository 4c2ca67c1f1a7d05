"""Which layers of a network are quantised, and how a checkpoint says that it stores them so.

These are the plain linear layers inside the blocks, experts included, and if asked for the embedding table
and the head. A `LanguageModel` says where they are.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from glm_core.records import QuantizationScheme

from ..network.language_model import LanguageModel
from ..network.places import Place
from .formats import check_format, quantize_rows
from .layers import QuantizedEmbedding, QuantizedLinear, make_quantized_table, tie

# What `--quantize` makes of the embedding table and the head that shares it, whatever the blocks become.
# On the demo model int8 leaves perplexity and answers as they were, while int4, also in groups, changes
# ten times as many next tokens as int8 blocks do; and every logit passes through it. It halves the
# largest matrix of a decode step (benchmarks/quantization_error_cpu_2026-11-22.md).
TABLE_SCHEME = QuantizationScheme(8)


@dataclass(frozen=True)
class StoredForm:
    """How a checkpoint stores its weights, as its ``config.json`` says.

    Attributes:
        bits: 8 or 4; 0 = not quantised.
        group_size: input features that share a scale; 0 = a scale per row, as published.
        embeddings: whether the embedding table and the head, which share it, are stored so too.
    """

    bits: int = 0
    group_size: int = 0
    embeddings: bool = False

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> StoredForm:
        """Read ``quantization_bit``, ``quantization_group_size`` and ``quantization_embeddings``.

        Raises:
            ValueError: a value that no checkpoint can have, with its key.
        """
        bits, group_size = config.get("quantization_bit") or 0, config.get("quantization_group_size") or 0
        if bits:
            try:
                check_format(bits)
            except ValueError as error:
                raise ValueError(f"quantization_bit: {error}") from error
            try:
                check_format(bits, 0, group_size)
            except ValueError as error:
                raise ValueError(f"quantization_group_size: {error}") from error
        return cls(bits, group_size if bits else 0, bool(bits and config.get("quantization_embeddings")))

    def as_config(self) -> dict[str, Any]:
        """Return the keys of ``config.json``; without groups exactly the published ones."""
        keys: dict[str, Any] = {
            "quantization_bit": self.bits,
            "quantization_embeddings": self.embeddings,
        }
        return keys | ({"quantization_group_size": self.group_size} if self.group_size else {})


def expect_stored_form(network: LanguageModel, config: Mapping[str, Any]) -> None:
    """Put empty quantised layers where a checkpoint's ``config.json`` says it holds quantised ones.

    Args:
        network: a language model.
        config: see `StoredForm.from_config`.

    Raises:
        ValueError: the format does not exist, or does not suit the network; names the key or layer.
    """
    form = StoredForm.from_config(config)
    if not form.bits:
        return
    check_linears(network, QuantizationScheme(form.bits, form.group_size))
    for place in network.find_block_linears():
        linear = place.module
        place.replace(
            QuantizedLinear(
                linear.in_features,
                linear.out_features,
                form.bits,
                bias=linear.bias is not None,
                group_size=form.group_size,
            )
        )
    if form.embeddings:
        rows, columns = network.dimensions.vocab_size, network.dimensions.hidden_size
        embedding = QuantizedEmbedding(rows, columns, form.bits, group_size=form.group_size)
        head = QuantizedLinear(columns, rows, form.bits, bias=False, group_size=form.group_size)
        tie(embedding, head)
        network.embedding_place.replace(embedding)
        network.head_place.replace(head)


def check_linears(network: LanguageModel, scheme: QuantizationScheme) -> None:
    """Refuse a scheme that a block's layer cannot be stored in.

    Raises:
        ValueError: naming the first such layer.
    """
    check_format(scheme.bits, 0, scheme.group_size)
    for place in network.find_block_linears():
        try:
            check_format(scheme.bits, place.module.in_features, scheme.group_size)
        except ValueError as error:
            raise ValueError(f"{place.name}: {error}") from error


def quantize_in_place(
    network: LanguageModel,
    scheme: QuantizationScheme,
    *,
    embeddings: QuantizationScheme | None = None,
) -> None:
    """Quantise a network whose weights are in memory, one layer at a time.

    Args:
        network: a language model.
        scheme: of the blocks' linear layers.
        embeddings: of the embedding table and the head where they are one, else of the head alone:
            of a table only a few rows are looked up. ``None`` leaves both.

    Raises:
        ValueError: the scheme does not suit the network; nothing was changed.
    """
    check_linears(network, scheme)
    if embeddings is not None:
        check_format(embeddings.bits, network.dimensions.hidden_size, embeddings.group_size)

    def read(weight: Tensor, wanted: QuantizationScheme) -> tuple[Tensor, Tensor]:
        return quantize_rows(weight.detach(), wanted.bits, wanted.group_size)

    is_tied = network.is_tied
    for place, wanted in list_linears_to_quantize(network, scheme, embeddings):
        bias = None if place.module.bias is None else place.module.bias.detach()
        stored, scale = read(place.module.weight, wanted)
        place.replace(QuantizedLinear.from_stored(stored, scale, bias, wanted.bits, wanted.group_size))
    if is_tied and embeddings is not None:
        table: Any = network.embedding
        replace_table(network, *read(table.weight, embeddings), embeddings)


def list_linears_to_quantize(
    network: LanguageModel, scheme: QuantizationScheme, embeddings: QuantizationScheme | None
) -> list[tuple[Place, QuantizationScheme]]:
    """Return the linear layers of the blocks and a head with weights of its own, each with its scheme.

    Args:
        network: a language model.
        scheme: of the blocks' layers.
        embeddings: of the head; ``None`` leaves it.
    """
    found = [(place, scheme) for place in network.find_block_linears()]
    if embeddings is not None and not network.is_tied:
        found.append((network.head_place, embeddings))
    return found


def replace_table(network: LanguageModel, stored: Tensor, scale: Tensor, scheme: QuantizationScheme) -> None:
    """Replace the embedding and its tied head by quantised ones over one table."""
    embedding, head = make_quantized_table(stored, scale, scheme.bits, scheme.group_size)
    network.embedding_place.replace(embedding)
    network.head_place.replace(head)
