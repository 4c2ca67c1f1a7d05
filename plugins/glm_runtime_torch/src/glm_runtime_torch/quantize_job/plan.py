"""What a quantised checkpoint will hold, and in which file: decided before anything is read or written."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch
from glm_hub.model_files import SAFETENSORS
from torch import nn

from glm_core.errors import CheckpointError, ConfigError

from ..checkpoints.reader import Checkpoint
from ..checkpoints.stored_scale import PLAIN_DTYPES
from ..checkpoints.writer import TensorEntry
from ..network.language_model import LanguageModel
from ..quantization.formats import check_format, choose_scale_dtype, compute_scale_shape, compute_stored_shape
from ..quantization.network import StoredForm

STORED_INTEGERS = "weight"
STORED_SCALES = "weight_scale"
_INT8 = torch.int8


@dataclass(frozen=True)
class ShardItem:
    """One tensor of the source, and what becomes of it.

    Attributes:
        source: its name.
        num_bytes: its size in the source.
        entries: what is written for it: itself, or integers and scales in turn, of a tied table twice.
        quantized: whether it is integers and scales.
    """

    source: str
    num_bytes: int
    entries: tuple[TensorEntry, ...]
    quantized: bool


@dataclass(frozen=True)
class ShardUnit:
    """Items that are written one after the other to the same file.

    Attributes:
        items: in the order of the source.
        block: index of the transformer block that they are; ``None`` for what is outside.
    """

    items: tuple[ShardItem, ...]
    block: int | None = None

    @property
    def num_bytes(self) -> int:
        """Return its size in the result."""
        return sum(entry.num_bytes for item in self.items for entry in item.entries)


@dataclass(frozen=True)
class Shard:
    """One file of the result."""

    name: str
    units: tuple[ShardUnit, ...]

    @property
    def entries(self) -> tuple[TensorEntry, ...]:
        """Return every tensor in it."""
        return tuple(entry for unit in self.units for item in unit.items for entry in item.entries)

    @property
    def num_bytes(self) -> int:
        """Return the bytes of its tensors."""
        return sum(entry.num_bytes for entry in self.entries)


def plan_shards(
    checkpoint: Checkpoint, network: LanguageModel, form: StoredForm, max_shard_bytes: int
) -> list[Shard]:
    """Lay out the result.

    A block is never split, because GPTQ takes up an interrupted job between blocks. A file has at least one
    unit, so it may be larger than asked for.
    A head that is the embedding table is left out, since whoever reads ties it; of a quantised
    table it is written as well, because the original reads its scales under both names.

    Raises:
        CheckpointError: a matrix to quantise holds no floating-point numbers.
        ConfigError: the table is to be quantised and cannot be.
    """
    matrices = {f"{place.name}.weight" for place in network.find_block_linears()}
    tables = _list_table_names(network, form) if form.embeddings else ()
    aliases = _find_aliases(network)
    start = f"{network.part_names.blocks}."
    outside: list[ShardUnit] = []
    inside: dict[int, list[ShardItem]] = {index: [] for index in range(network.dimensions.num_layers)}
    for name in checkpoint:
        if name in aliases:
            continue
        targets = tables if name in tables[:1] else (name,) if name in matrices else ()
        item = _plan_item(checkpoint, name, targets, form)
        number = name.removeprefix(start).partition(".")[0] if name.startswith(start) else ""
        if number.isdecimal() and int(number) in inside:
            inside[int(number)].append(item)
        else:  # also blocks that the network does not have, such as GLM-4.5's for predicting further tokens
            outside.append(ShardUnit((item,)))
    embedding = f"{network.part_names.embedding}.{STORED_INTEGERS}"
    # The table comes first, because GPTQ and whoever loads the result need it first; the rest stays in order.
    outside.sort(key=lambda unit: unit.items[0].source != embedding)
    in_order = [
        *outside[:1],
        *(ShardUnit(tuple(items), index) for index, items in inside.items()),
        *outside[1:],
    ]
    return _split_into_shards(in_order, max_shard_bytes)


def _list_table_names(network: LanguageModel, form: StoredForm) -> tuple[str, ...]:
    if not network.is_tied:
        raise ConfigError(
            "this model's embeddings and head are two tables, which are not quantised; "
            "leave --quantize-embeddings out"
        )
    try:
        check_format(form.bits, network.dimensions.hidden_size, form.group_size)
    except ValueError as error:
        raise ConfigError(f"{network.part_names.embedding}: {error}") from error
    names = network.part_names
    return tuple(f"{name}.{STORED_INTEGERS}" for name in (names.embedding, names.head))


def _find_aliases(network: nn.Module) -> set[str]:
    """Return the names of parameters that are other names of tied ones."""
    every = {name for name, _ in network.named_parameters(remove_duplicate=False)}
    return every - {name for name, _ in network.named_parameters()}


def _plan_item(checkpoint: Checkpoint, name: str, targets: Sequence[str], form: StoredForm) -> ShardItem:
    facts = checkpoint.get_facts(name)
    itself = TensorEntry(name, facts.dtype, facts.shape)
    if not targets:
        return ShardItem(name, itself.num_bytes, (itself,), quantized=False)
    if facts.dtype not in PLAIN_DTYPES:
        dtype = str(facts.dtype).removeprefix("torch.")
        raise CheckpointError(
            f"{checkpoint.directory}: {name} holds {dtype} numbers, so it is quantised already; "
            "quantise the float16 original."
        )
    entries: list[TensorEntry] = []
    for target in targets:
        scales = f"{target.removesuffix(STORED_INTEGERS)}{STORED_SCALES}"
        entries.append(TensorEntry(target, _INT8, compute_stored_shape(facts.shape, form.bits)))
        entries.append(
            TensorEntry(
                scales, choose_scale_dtype(facts.dtype), compute_scale_shape(facts.shape, form.group_size)
            )
        )
    return ShardItem(name, itself.num_bytes, tuple(entries), quantized=True)


def _split_into_shards(units: Iterable[ShardUnit], max_bytes: int) -> list[Shard]:
    files: list[list[ShardUnit]] = [[]]
    size = 0
    for unit in units:
        if files[-1] and size + unit.num_bytes > max_bytes:
            files.append([])
            size = 0
        files[-1].append(unit)
        size += unit.num_bytes
    if len(files) == 1:
        return [Shard(SAFETENSORS.single, tuple(files[0]))]
    count = len(files)
    return [
        Shard(f"model-{number:05}-of-{count:05}.safetensors", tuple(file))
        for number, file in enumerate(files, 1)
    ]


def iterate_items(shards: Iterable[Shard]) -> Iterator[ShardItem]:
    """Return every item of some shards."""
    return (item for shard in shards for unit in shard.units for item in unit.items)
