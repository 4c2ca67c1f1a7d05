"""Rows as tokens: the original's preprocessing, padding, and the order of micro batches."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
from glm_ptuning._data import Columns, Row, Table, read_rows
from glm_ptuning._examples import ExampleLengths, MicroBatches, collate, format_report, tokenize
from glm_ptuning._table_files import RowPlace
from glm_runtime_torch.network.decoder import IGNORED_LABEL
from glm_runtime_torch.tokenizers.chatglm import ChatGLMTokenizer
from goldens import cases
from tiny_models import train_vocabulary


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> ChatGLMTokenizer:
    """A small vocabulary of ChatGLM-6B's form."""
    directory = tmp_path_factory.mktemp("vocabulary")
    train_vocabulary(directory)
    return ChatGLMTokenizer(directory)


def test_labels_are_the_original_ones(tokenizer: ChatGLMTokenizer) -> None:
    """-100 before <sop>, then <sop>, the answer and <eop>; padding on the right counts for nothing."""
    rows = [Row(RowPlace(1), "hello", "你好"), Row(RowPlace(2), "hello", "你好 世界 hello world")]
    lengths = ExampleLengths(32, 32)
    batch = collate(tokenize(rows, tokenizer, lengths), lengths, tokenizer.pad_token_id)
    ids, labels = batch.input_ids[0].tolist(), batch.labels[0].tolist()
    start = ids.index(tokenizer.bos_token_id)
    end = ids.index(tokenizer.eos_token_id)
    assert ids[:start] == [*tokenizer.encode("hello"), tokenizer.gmask_token_id]
    assert ids[start + 1 : end] == tokenizer.encode("你好")
    assert labels == [IGNORED_LABEL] * start + ids[start : end + 1] + [IGNORED_LABEL] * (len(ids) - end - 1)
    assert set(ids[end + 1 :]) == {tokenizer.pad_token_id}


def test_the_fixtures_batch_has_the_same_form() -> None:
    """In the original's own batch labels begin with <sop> and repeat the ids to <eop>."""
    case = next(case for case in cases("chatglm-6b") if case.name == "train_full")
    for ids, labels in zip(case["input_ids"].tolist(), case["labels"].tolist(), strict=True):
        start = ids.index(504)
        assert labels[:start] == [IGNORED_LABEL] * start
        real = [label for label in labels if label != IGNORED_LABEL]
        assert real == ids[start : start + len(real)]
        assert (real[0], real[-1]) == (504, 505)


def test_texts_are_cut_as_in_the_original(tokenizer: ChatGLMTokenizer) -> None:
    """The prompt keeps one token less than its limit, the answer two less; control tokens fill up."""
    row = Row(RowPlace(1), "hello " * 20, "世界 " * 20)
    (example,) = tokenize([row], tokenizer, ExampleLengths(10, 8))
    assert example.token_ids[:9] == tokenizer.encode(row.prompt)[:9]
    assert example.token_ids[9:11] == [tokenizer.gmask_token_id, tokenizer.bos_token_id]
    assert example.token_ids[11:17] == tokenizer.encode(row.response)[:6]
    assert example.token_ids[17:] == [tokenizer.eos_token_id]
    assert len(example.token_ids) == 10 + 8
    assert (example.source_cut, example.target_cut) == (True, True)
    assert example.source_length == len(tokenizer.encode(row.prompt))


def test_history_stands_in_the_chat_format(tokenizer: ChatGLMTokenizer) -> None:
    """Earlier rounds are what a chat would send."""
    row = Row(RowPlace(1), "再见", "好", (("你好", "您好"),))
    (example,) = tokenize([row], tokenizer, ExampleLengths(200, 32))
    prompt = tokenizer.encode_chat(row.build_messages())
    assert example.token_ids[: example.prompt_length] == prompt


def test_filling_up_and_learning_padding(tokenizer: ChatGLMTokenizer) -> None:
    """pad_to_max_length makes every batch one length; padding is learnt where it is not ignored."""
    row = Row(RowPlace(1), "hello", "你好")
    filled = ExampleLengths(20, 12, fill_up=True)
    batch = collate(tokenize([row], tokenizer, filled), filled, tokenizer.pad_token_id)
    assert batch.input_ids.shape == (1, 32)
    learnt = ExampleLengths(20, 12, learn_padding=True)
    batch = collate(tokenize([row], tokenizer, learnt), learnt, tokenizer.pad_token_id)
    assert batch.input_ids.shape == (1, 32)
    assert batch.labels[0, -1] == tokenizer.pad_token_id


def test_the_report_counts_what_is_cut(tokenizer: ChatGLMTokenizer, tmp_path: Path) -> None:
    """Rows, median and longest lengths, and how many are cut, before training."""
    path = tmp_path / "rows.jsonl"
    path.write_text('{"q": "hello", "a": "你好"}\n{"q": "' + "hello " * 50 + '", "a": "世界"}\n', "utf-8")
    table = read_rows(path, Columns("q", "a"))
    text = format_report(
        table, tokenize(table.rows, tokenizer, ExampleLengths(16, 16)), ExampleLengths(16, 16)
    )
    longest = len(tokenizer.encode("hello " * 50))
    assert text.startswith("rows.jsonl: 2 rows; prompts have ")
    assert f"{longest} at most, 1 are cut (max_source_length 16)" in text
    assert "answers" in text
    assert "max_target_length" not in text
    assert isinstance(table, Table)


def epoch(order: MicroBatches, number: int) -> list[int]:
    numbers = range(number * order.per_epoch, (number + 1) * order.per_epoch)
    return [row for batch in numbers for row in order.get_rows(batch)]


def test_every_row_comes_once_an_epoch_in_another_order() -> None:
    """An epoch is a permutation; the next one, and another seed, is another."""
    order = MicroBatches(10, 0, 0.1, 3, 7, drop_last=False)
    assert order.per_epoch == 4
    first, second = epoch(order, 0), epoch(order, 1)
    assert sorted(first) == sorted(second) == list(range(10))
    assert first != second
    assert epoch(MicroBatches(10, 0, 0.1, 3, 8, drop_last=False), 0) != first


def test_a_batch_follows_from_its_number_alone() -> None:
    """Asked in any order, as after a restart, the same number gives the same rows."""
    order = MicroBatches(10, 4, 0.3, 2, 7, drop_last=False)
    forward = [order.get_rows(number) for number in range(20)]
    backward = [
        MicroBatches(10, 4, 0.3, 2, 7, drop_last=False).get_rows(number) for number in range(19, -1, -1)
    ]
    assert forward == backward[::-1]


def test_the_last_batch_of_an_epoch_may_be_left_out() -> None:
    """dataloader_drop_last keeps whole batches only, but never none."""
    assert MicroBatches(10, 0, 0.1, 3, 7, drop_last=True).per_epoch == 3
    assert MicroBatches(2, 0, 0.1, 3, 7, drop_last=True).get_rows(0) != []


def test_replayed_rows_make_up_their_share() -> None:
    """A quarter of an epoch's rows are replayed, each as often as the others."""
    order = MicroBatches(30, 5, 0.25, 4, 7, drop_last=False)
    rows = epoch(order, 0)
    replayed = Counter(row for row in rows if row >= 30)
    assert len(rows) == order.rows_per_epoch == 40
    assert sorted(replayed) == [30, 31, 32, 33, 34]
    assert set(replayed.values()) == {2}
    assert sorted(row for row in rows if row < 30) == list(range(30))
