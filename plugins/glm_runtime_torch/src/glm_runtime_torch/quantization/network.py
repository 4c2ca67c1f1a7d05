"""What of a network is quantised, told apart by its shape and not by one family's names."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from glm_core.records import QuantizationScheme

from .formats import check_format, quantize_rows
from .layers import REFERENCE, QuantizedEmbedding, QuantizedLayers, QuantizedLinear, tie

# What `--quantize` makes of the embedding table and the head that shares it, whatever the blocks become.
# On the demo model int8 leaves perplexity and answers as they were, while int4, also in groups, changes
# ten times as many next tokens as int8 blocks do; and every logit passes through it. It halves the
# largest matrix of a decode step (benchmarks/quantization_error_cpu_2026-11-22.md).
TABLE_SCHEME = QuantizationScheme(8)


@dataclass(frozen=True)
class Place:
    """Where a module stands in a network.

    Attributes:
        name: full name, such as ``"transformer.word_embeddings"``.
        parent: the module that holds it.
        attribute: its name there.
    """

    name: str
    parent: nn.Module
    attribute: str

    @property
    def module(self) -> Any:
        """What stands there now."""
        return getattr(self.parent, self.attribute)

    def put(self, module: nn.Module) -> None:
        """Replace it."""
        setattr(self.parent, self.attribute, module)


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
    def of_config(cls, config: Mapping[str, Any]) -> StoredForm:
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
        """The keys of ``config.json``; without groups exactly the published ones."""
        keys: dict[str, Any] = {
            "quantization_bit": self.bits,
            "quantization_embeddings": self.embeddings,
        }
        return keys | ({"quantization_group_size": self.group_size} if self.group_size else {})


def block_linears(network: nn.Module) -> Iterator[tuple[str, nn.Module, str, nn.Linear]]:
    """The linear layers inside the blocks, which are what is quantised: name, parent, attribute, layer."""
    for parent_name, parent in network.named_modules():
        if ".layers." not in f".{parent_name}.":
            continue
        for attribute, child in list(parent.named_children()):
            if isinstance(child, nn.Linear):
                yield f"{parent_name}.{attribute}", parent, attribute, child


def blocks(network: nn.Module) -> tuple[str, nn.ModuleList]:
    """The transformer blocks in order, and the name of the list that holds them."""
    return next(
        (name, module)
        for name, module in network.named_modules()
        if isinstance(module, nn.ModuleList) and name.rpartition(".")[2] == "layers"
    )


def embedding_place(network: nn.Module) -> Place:
    """Where the word embeddings stand: the largest table of the network."""
    return max(
        _places(network, lambda module: isinstance(module, (nn.Embedding, QuantizedEmbedding))),
        key=lambda place: place.module.num_embeddings,
    )


def table_places(network: nn.Module) -> tuple[Place, Place] | None:
    """The word embeddings and the head over the same table; ``None`` if there is no head of its shape."""
    embedding = embedding_place(network)
    shape = embedding.module.embedding_dim, embedding.module.num_embeddings
    heads = _places(
        network,
        lambda module: isinstance(module, nn.Linear) and (module.in_features, module.out_features) == shape,
    )
    head = next((place for place in heads if ".layers." not in f".{place.name}."), None)
    return None if head is None else (embedding, head)


def tied_table(network: nn.Module) -> tuple[Place, Place] | None:
    """The word embeddings and the head, if they are one tensor."""
    places = table_places(network)
    if places is None or places[0].module.weight is not places[1].module.weight:
        return None
    return places


def untied_head(network: nn.Module) -> Place | None:
    """The head, if its weights are its own."""
    places = table_places(network)
    return None if places is None or places[0].module.weight is places[1].module.weight else places[1]


def expect_stored_form(network: nn.Module, config: Mapping[str, Any]) -> None:
    """Put empty quantised layers where a checkpoint's ``config.json`` says it holds quantised ones.

    Args:
        network: a language model.
        config: see `StoredForm.of_config`.

    Raises:
        ValueError: the format does not exist, or does not suit the network; names the key or layer.
    """
    form = StoredForm.of_config(config)
    if not form.bits:
        return
    check_linears(network, QuantizationScheme(form.bits, form.group_size))
    for _, parent, attribute, linear in block_linears(network):
        bias = linear.bias is not None
        layer = QuantizedLinear(
            linear.in_features, linear.out_features, form.bits, bias=bias, group_size=form.group_size
        )
        setattr(parent, attribute, layer)
    places = table_places(network) if form.embeddings else None
    if places is None:
        return
    rows, columns = places[0].module.num_embeddings, places[0].module.embedding_dim
    embedding = QuantizedEmbedding(rows, columns, form.bits, group_size=form.group_size)
    head = QuantizedLinear(columns, rows, form.bits, bias=False, group_size=form.group_size)
    tie(embedding, head)
    places[0].put(embedding)
    places[1].put(head)


def check_linears(network: nn.Module, scheme: QuantizationScheme) -> None:
    """Refuse a scheme that a block's layer cannot be stored in.

    Raises:
        ValueError: naming the first such layer.
    """
    check_format(scheme.bits, 0, scheme.group_size)
    for name, _, _, linear in block_linears(network):
        try:
            check_format(scheme.bits, linear.in_features, scheme.group_size)
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from error


def quantize_in_place(
    network: nn.Module,
    scheme: QuantizationScheme,
    layers: QuantizedLayers = REFERENCE,
    *,
    embeddings: QuantizationScheme | None = None,
) -> None:
    """Quantise a network whose weights are in memory, one layer at a time.

    Args:
        network: a language model.
        scheme: of the blocks' linear layers.
        layers: makes the new modules.
        embeddings: of the embedding table and the head where they are one, else of the head alone:
            of a table only a few rows are looked up. ``None`` leaves both.

    Raises:
        ValueError: the scheme does not suit the network; nothing was changed.
    """
    check_linears(network, scheme)

    def read(weight: Tensor, wanted: QuantizationScheme) -> tuple[Tensor, Tensor]:
        return quantize_rows(weight.detach(), wanted.bits, wanted.group_size)

    table, head = (tied_table(network), untied_head(network)) if embeddings is not None else (None, None)
    for place, wanted in linears_to_quantize(network, scheme, head, embeddings):
        bias = None if place.module.bias is None else place.module.bias.detach()
        stored, scale = read(place.module.weight, wanted)
        place.put(layers.linear(stored, scale, bias, wanted.bits, wanted.group_size))
    if table is not None and embeddings is not None:
        put_table(table, *read(table[0].module.weight, embeddings), embeddings, layers)


def linears_to_quantize(
    network: nn.Module, scheme: QuantizationScheme, head: Place | None, embeddings: QuantizationScheme | None
) -> list[tuple[Place, QuantizationScheme]]:
    """The linear layers of the blocks and a head with weights of its own, each with its scheme."""
    found = [
        (Place(name, parent, attribute), scheme) for name, parent, attribute, _ in block_linears(network)
    ]
    return [*found, (head, embeddings)] if head is not None and embeddings is not None else found


def put_table(
    table: tuple[Place, Place],
    stored: Tensor,
    scale: Tensor,
    scheme: QuantizationScheme,
    layers: QuantizedLayers,
) -> None:
    """Replace the embedding and its tied head by quantised ones over one table."""
    modules = layers.tied_table(stored, scale, scheme.bits, scheme.group_size)
    for place, module in zip(table, modules, strict=True):
        place.put(module)


def _places(network: nn.Module, wanted: Callable[[nn.Module], bool]) -> list[Place]:
    return [
        Place(f"{name}.{attribute}".lstrip("."), parent, attribute)
        for name, parent in network.named_modules()
        for attribute, child in parent.named_children()
        if wanted(child)
    ]
