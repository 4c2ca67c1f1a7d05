"""Rows as tokens, a report of what was cut, and the order of the rows in training.

Axes: B rows · T tokens
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from glm_runtime_torch.training import IGNORED_LABEL, TrainingIds, TrainingTokenizer
from torch import Tensor

from ._data import Row, Table


@dataclass(frozen=True)
class ExampleLengths:
    """How long examples may be, and how they are padded.

    Attributes:
        source: tokens of a prompt; see the tokenizer's ``encode_training_row``.
        target: tokens of an answer.
        fill_up: make every batch as long as the longest example could be.
        learn_padding: let padding count in the loss.
    """

    source: int
    target: int
    fill_up: bool = False
    learn_padding: bool = False


@dataclass(frozen=True)
class Batch:
    """Some examples, padded on the right.

    Attributes:
        input_ids: ``[B, T]`` int64.
        labels: ``[B, T]`` int64, -100 where nothing is learnt.
    """

    input_ids: Tensor
    labels: Tensor


def tokenize(
    rows: Sequence[Row], tokenizer: TrainingTokenizer, lengths: ExampleLengths, source_prefix: str = ""
) -> list[TrainingIds]:
    """Return the tokens of rows, in their order."""
    return [
        tokenizer.encode_training_row(
            row.build_messages(source_prefix), row.response, lengths.source, lengths.target
        )
        for row in rows
    ]


def format_report(table: Table, examples: Sequence[TrainingIds], lengths: ExampleLengths) -> str:
    """Return one line for people: rows, lengths, and how much was cut."""
    parts = [table.format_report()]
    for name, counts, cut, limit in (
        (
            "prompt",
            [example.source_length for example in examples],
            sum(example.source_cut for example in examples),
            lengths.source,
        ),
        (
            "answer",
            [example.target_length for example in examples],
            sum(example.target_cut for example in examples),
            lengths.target,
        ),
    ):
        parts.append(
            f"{name}s have {statistics.median_low(counts)} tokens (median), {max(counts)} at most"
            + (
                f", {cut} are cut (max_{'source' if name == 'prompt' else 'target'}_length {limit})"
                if cut
                else ""
            )
        )
    return "; ".join(parts)


def collate(examples: Sequence[TrainingIds], lengths: ExampleLengths, pad_token_id: int) -> Batch:
    """Return a batch of examples."""
    longest = max(len(example.token_ids) for example in examples)
    if lengths.fill_up or lengths.learn_padding:
        # Padding that counts in the loss must not depend on the other rows of a batch.
        longest = max(longest, lengths.source + lengths.target)
    input_ids = torch.full((len(examples), longest), pad_token_id, dtype=torch.int64)
    labels = torch.full_like(input_ids, pad_token_id if lengths.learn_padding else IGNORED_LABEL)
    for row, example in enumerate(examples):
        ids = torch.tensor(example.token_ids)
        input_ids[row, : len(ids)] = ids
        labels[row, : example.first_target] = IGNORED_LABEL
        labels[row, example.first_target : len(ids)] = ids[example.first_target :]
    return Batch(input_ids, labels)


class MicroBatches:
    """Endless batches by their number, from 0: the rows of each follow from the seed and the number alone.

    An epoch is all rows once, in an order of its own, with some rows of a replay file among them.

    Args:
        num_rows: rows to learn.
        num_replay: rows of the replay file; they have the indices after the others'.
        replay_share: of an epoch's rows, how many are replayed.
        size: rows of a batch; the last of an epoch may have fewer.
        drop_last: leave that last one out.
        seed: of the order.
    """

    def __init__(
        self, num_rows: int, num_replay: int, replay_share: float, size: int, seed: int, *, drop_last: bool
    ) -> None:
        self._num_rows = num_rows
        self._num_replay = num_replay
        wanted = round(num_rows * replay_share / (1 - replay_share)) if num_replay else 0
        self._per_epoch = num_rows + wanted
        self._size = size
        self._seed = seed
        # At least one: with fewer rows than a batch has, dropping the last batch would leave nothing.
        whole, rest = divmod(self._per_epoch, size)
        self.per_epoch = max(whole if drop_last else whole + bool(rest), 1)
        self._known: tuple[int, list[int]] = (-1, [])  # the order of the last epoch, asked for many times

    @property
    def rows_per_epoch(self) -> int:
        """Return the rows of an epoch, replayed ones included."""
        return self._per_epoch

    def get_rows(self, number: int) -> list[int]:
        """Return the rows of a batch."""
        epoch, place = divmod(number, self.per_epoch)
        if self._known[0] != epoch:
            self._known = epoch, self._shuffle_rows(epoch)
        return self._known[1][place * self._size : (place + 1) * self._size]

    def _shuffle_rows(self, epoch: int) -> list[int]:
        # A large prime keeps the epochs of neighbouring seeds apart; 2**62 is below what a seed may be.
        generator = torch.Generator().manual_seed((self._seed * 1_000_003 + epoch) % 2**62)
        replayed = self._per_epoch - self._num_rows
        pool = torch.arange(self._num_rows)
        if replayed:
            rounds = -(-replayed // self._num_replay)
            drawn = torch.cat([torch.randperm(self._num_replay, generator=generator) for _ in range(rounds)])
            pool = torch.cat((pool, self._num_rows + drawn[:replayed]))
        order: list[int] = pool[torch.randperm(len(pool), generator=generator)].tolist()
        return order
