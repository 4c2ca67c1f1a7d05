"""Tests of questions of a wanted length."""

from __future__ import annotations

import itertools

import pytest
from glm_jobs.bench.prompts import find_word_count, make_question
from key_words import containing

from glm_core import ConfigError


def test_questions_differ_early() -> None:
    """No two of a thousand have the same first four words, and all have the wanted number."""
    texts = [make_question(20, number) for number in range(1000)]
    assert {len(text.split()) for text in texts} == {20}
    beginnings = [tuple(text.split()[:4]) for text in texts]
    assert len(set(beginnings)) == 1000
    assert all(one[0] != other[0] for one, other in itertools.pairwise(beginnings))


@pytest.mark.parametrize("wanted", [1, 2, 128, 1500])
def test_tokens_that_are_words_are_met_exactly(wanted: int) -> None:
    """With one token a word the second try fits."""
    tries: list[str] = []

    def count(text: str) -> int:
        tries.append(text)
        return len(text.split())

    assert find_word_count(wanted, count) == wanted
    assert len(tries) <= 2


@pytest.mark.parametrize(("per_word", "control"), [(1.0, 2), (2.7, 40), (0.4, 3)])
def test_any_tokenizer_is_met_within_two_per_cent(per_word: float, control: int) -> None:
    """Several tokens a word, several words a token, and a chat format around the question."""

    def count(text: str) -> int:
        return control + round(per_word * len(text.split()))

    found = count(make_question(find_word_count(512, count)))
    assert abs(found - 512) <= max(0.02 * 512, per_word)


def test_best_try_is_taken_where_counts_jump() -> None:
    """A tokenizer that counts in steps of 50 has no 512; the nearest that was seen is taken."""

    def count(text: str) -> int:
        return 50 * (1 + len(text.split()) // 10)

    assert abs(count(make_question(find_word_count(512, count))) - 512) <= 50


def test_shorter_than_the_chat_format_is_refused() -> None:
    """The message names what one word costs."""
    with pytest.raises(ConfigError, match=containing("--prompt-tokens 16", "31 tokens")):
        find_word_count(16, lambda text: 30 + len(text.split()))
