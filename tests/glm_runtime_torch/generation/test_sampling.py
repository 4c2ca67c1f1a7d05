"""Choosing tokens: the original's rules and order, seeds, and hostile scores."""

from __future__ import annotations

from collections import Counter

import pytest
import torch
from glm_runtime_torch.generation.sampling import (
    MAX_NUCLEUS,
    Sampler,
    penalise_presence,
    penalise_repetition,
    replace_invalid_scores,
    warp_candidates,
    warp_scores,
)
from goldens import Case, named

from glm_core import Sampling

V1 = "chatglm-6b"
DEFAULTS = Sampling(
    max_length=2048, temperature=0.95, top_p=0.7, top_k=50, repetition_penalty=1.0, do_sample=True
)


@pytest.mark.parametrize("case", named(V1, "invalid_scores", at_least=4))
def test_invalid_scores_follow_the_original(case: Case) -> None:
    """NaN or infinity makes token 5 certain; finite scores pass unchanged."""
    torch.testing.assert_close(replace_invalid_scores(case["scores_in"]), case["scores_out"])


@pytest.mark.parametrize("case", named(V1, "sampling", at_least=3))
def test_probabilities_equal_the_original(case: Case) -> None:
    """Temperature, top-k and top-p in this order give the original's probabilities."""
    warped = torch.stack(
        [
            warp_scores(
                row,
                temperature=case.settings["temperature"],
                top_k=case.settings["top_k"],
                top_p=case.settings["top_p"],
            )
            for row in case["scores_in"]
        ]
    )
    torch.testing.assert_close(warped.softmax(-1), case["probs"], rtol=1e-5, atol=1e-6)


def test_equal_seeds_choose_equal_tokens_and_other_seeds_do_not() -> None:
    """A seed fixes the whole sequence of choices."""
    logits = torch.zeros(1000)
    runs = [
        [Sampler(DEFAULTS.complete_with(DEFAULTS), seed).choose(logits, [], []) for _ in range(1)]
        for seed in (1, 1, 2)
    ]
    first, second = Sampler(DEFAULTS, 1), Sampler(DEFAULTS, 1)
    assert [first.choose(logits, [], []) for _ in range(8)] == [
        second.choose(logits, [], []) for _ in range(8)
    ]
    assert runs[0] == runs[1]
    assert len({Sampler(DEFAULTS, seed).choose(logits, [], []) for seed in range(20)}) > 1


@pytest.mark.parametrize(
    "greedy", [Sampling(do_sample=False), Sampling(temperature=0.0), Sampling(temperature=1e-300)]
)
def test_greedy_takes_the_most_likely_token(greedy: Sampling) -> None:
    """Without sampling, or at temperature 0, the highest score wins whatever the seed."""
    logits = torch.tensor([0.1, 0.3, 0.2])
    assert {Sampler(greedy.complete_with(DEFAULTS), seed).choose(logits, [], []) for seed in range(10)} == {1}


@pytest.mark.parametrize("temperature", [1, 2**70, 10**300])
def test_numbers_of_sampling_may_be_whole_and_of_any_size(temperature: int) -> None:
    """Python's integers are unbounded, and clients of an API write them for numbers."""
    sampling = Sampling(temperature=temperature, repetition_penalty=2**70, presence_penalty=1)
    token = Sampler(sampling.complete_with(DEFAULTS), 0).choose(torch.tensor([0.1, 0.3, 0.2]), [0], [0])
    assert token in range(3)


def test_sampling_follows_the_probabilities() -> None:
    """Frequencies of many choices are close to the softmax of the scores."""
    scores = torch.tensor([0.0, 1.0, 2.0])
    sampler = Sampler(Sampling(top_p=1.0, top_k=0, temperature=1.0).complete_with(DEFAULTS), 7)
    counts = Counter(sampler.choose(scores, [], []) for _ in range(4000))
    expected = scores.softmax(-1)
    for token in range(3):
        # four standard deviations of a binomial of 4,000 draws are below 0.032
        assert counts[token] / 4000 == pytest.approx(expected[token].item(), abs=0.032)


def test_repetition_penalty_lowers_seen_tokens_of_either_sign() -> None:
    """Positive scores of seen tokens are divided, negative ones multiplied; others stay."""
    scores = torch.tensor([2.0, -2.0, 2.0])
    torch.testing.assert_close(penalise_repetition(scores, [0, 1, 1], 2.0), torch.tensor([1.0, -4.0, 2.0]))


def test_repetition_penalty_changes_the_choice() -> None:
    """A penalised token loses to the next best in greedy decoding."""
    sampler = Sampler(Sampling(do_sample=False, repetition_penalty=2.0).complete_with(DEFAULTS))
    assert sampler.choose(torch.tensor([1.0, 0.9]), [0], []) == 1


def test_presence_and_frequency_count_the_answer_only() -> None:
    """Presence counts once, frequency each time; the prompt's tokens are free."""
    scores = torch.tensor([1.0, 1.0, 1.0])
    torch.testing.assert_close(penalise_presence(scores, [1, 1], 0.5, 0.25), torch.tensor([1.0, 0.0, 1.0]))
    sampler = Sampler(Sampling(do_sample=False, presence_penalty=2.0).complete_with(DEFAULTS))
    scores = torch.tensor([1.0, 0.5])
    assert sampler.choose(scores, [0], []) == 0
    assert sampler.choose(scores, [0], [0]) == 1


@pytest.mark.parametrize("top_p", [0.3, 0.9, 1.0])
@pytest.mark.parametrize("top_k", [0, 5, 50])
@pytest.mark.parametrize("spread", [0.01, 3.0])
def test_short_candidates_are_those_of_the_whole_vocabulary(top_k: int, top_p: float, spread: float) -> None:
    """Keeping the few likeliest tokens gives the probabilities of sorting the whole vocabulary."""
    scores = torch.randn(4 * MAX_NUCLEUS, generator=torch.Generator().manual_seed(1)) * spread
    whole = warp_scores(scores, temperature=0.8, top_k=top_k, top_p=top_p).softmax(-1)
    tokens, kept = warp_candidates(scores, temperature=0.8, top_k=top_k, top_p=top_p)
    assert (tokens is None) == (not top_k and (top_p == 1.0 or spread < 1))
    short = torch.zeros_like(scores)
    short[slice(None) if tokens is None else tokens] = kept.softmax(-1)
    torch.testing.assert_close(short, whole, rtol=1e-4, atol=1e-7)


def test_half_precision_logits_are_sampled_in_float32() -> None:
    """Scores that overflow float16 arithmetic still give a choice from the allowed set."""
    logits = torch.tensor([60000.0, 1.0, 2.0], dtype=torch.float16)
    assert Sampler(DEFAULTS, 0).choose(logits, [], []) == 0


def test_top_p_zero_keeps_the_best_token() -> None:
    """At least one token always remains."""
    warped = warp_scores(torch.tensor([0.1, 0.9]), temperature=1.0, top_k=0, top_p=0.0)
    assert torch.isfinite(warped).tolist() == [False, True]
