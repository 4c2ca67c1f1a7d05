"""Choosing from what a device kept of the scores gives what choosing from all of them gives."""

from __future__ import annotations

import pytest
import torch
from glm_runtime_torch.generation.candidates import select_candidates
from glm_runtime_torch.generation.sampling import MAX_NUCLEUS, Candidates, Sampler
from hypothesis import given, settings, strategies as st

from glm_core import Sampling

DEFAULTS = Sampling(temperature=0.95, top_p=0.7, top_k=50, repetition_penalty=1.0, do_sample=True)
VOCABULARY = 3000
ANSWER = [7, 8, 7]

SAMPLINGS = st.builds(
    lambda top_k, top_p, temperature, do_sample, repetition, presence: Sampling(
        top_k=top_k,
        top_p=top_p,
        temperature=temperature,
        do_sample=do_sample,
        repetition_penalty=repetition,
        presence_penalty=presence,
    ),
    st.sampled_from([0, 1, 5, 50, 2990, 5000]),
    st.sampled_from([0.0, 0.3, 0.9, 1.0]),
    st.sampled_from([0.0, 0.2, 1.0, 3.0]),
    st.sampled_from([True, True, False]),
    st.sampled_from([1.0, 1.0, 1.3]),
    st.sampled_from([None, None, 0.5]),
)


def drawn(seed: int, rows: int, spread: float, levels: int) -> torch.Tensor:
    """Logits ``[rows, V]``; with levels only so many different values occur, so there are ties."""
    logits = torch.randn(rows, VOCABULARY, generator=torch.Generator().manual_seed(seed)) * spread
    return (logits * levels / spread).round() * spread / levels if levels else logits


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    samplings=st.lists(SAMPLINGS, min_size=1, max_size=5),
    seed=st.integers(0, 1000),
    spread=st.sampled_from([0.01, 1.0, 4.0]),
    levels=st.sampled_from([0, 0, 2, 20]),
    dtype=st.sampled_from([torch.float32, torch.float16]),
)
def test_tokens_are_those_of_whole_rows(
    samplings: list[Sampling], seed: int, spread: float, levels: int, dtype: torch.dtype
) -> None:
    """In any mixed batch, with ties too, the same seed chooses the same tokens from pruned and whole rows."""
    logits = drawn(seed, len(samplings), spread, levels).to(dtype)
    whole, pruned = (
        [Sampler(sampling.complete_with(DEFAULTS), seed) for sampling in samplings] for _ in range(2)
    )
    for _ in range(3):
        rows = select_candidates(logits, pruned, prune=True)
        expected = [sampler.choose(row, [7], ANSWER) for sampler, row in zip(whole, logits, strict=True)]
        assert [
            sampler.choose(row, [7], ANSWER) for sampler, row in zip(pruned, rows, strict=True)
        ] == expected


def sampler(**sampling: object) -> Sampler:
    """With the defaults where nothing is said."""
    return Sampler(Sampling(**sampling).complete_with(DEFAULTS), 0)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("sampling", "kept"),
    [
        ({"do_sample": False}, 1),
        ({}, 66),
        ({"top_k": 0}, MAX_NUCLEUS),
        ({"top_k": 0, "top_p": 1.0}, None),
        ({"presence_penalty": 0.5}, None),
        ({"repetition_penalty": 1.2}, None),
    ],
)
def test_only_what_is_needed_is_kept(sampling: dict[str, object], kept: int | None) -> None:
    """Greedy rows keep one token, top-k rows a few more than k; whoever may need every score gets them."""
    row = select_candidates(drawn(0, 1, 4.0, 0), [sampler(**sampling)], prune=True)[0]
    assert (len(row.tokens) if isinstance(row, Candidates) else None) == kept


def test_rows_on_the_processor_are_passed_on_as_they_are() -> None:
    """Where nothing is gained, rows are not touched."""
    logits = drawn(0, 2, 1.0, 0)
    rows = select_candidates(logits, [sampler(), sampler()])
    for row, own in zip(rows, logits, strict=True):
        assert isinstance(row, torch.Tensor)
        assert row.data_ptr() == own.data_ptr()


def test_wide_nucleus_takes_the_whole_row() -> None:
    """Where the likeliest tokens do not hold the nucleus, the row comes whole; its neighbour stays pruned."""
    logits = torch.stack((torch.zeros(VOCABULARY), drawn(0, 1, 8.0, 0)[0]))
    flat, narrow = select_candidates(logits, [sampler(top_k=0), sampler(top_k=0)], prune=True)
    assert isinstance(flat, torch.Tensor)
    assert isinstance(narrow, Candidates)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_invalid_scores_follow_the_original(bad: float) -> None:
    """A row with NaN or infinity chooses token 5 as it does whole, and the rows beside it are not touched."""
    logits = drawn(0, 2, 8.0, 0)
    best = int(logits[1].argmax())
    logits[0, 17] = bad
    samplers = [sampler(), sampler(do_sample=False)]
    rows = select_candidates(logits, samplers, prune=True)
    assert [one.choose(row, [], []) for one, row in zip(samplers, rows, strict=True)] == [5, best]
