"""Constraints on answers: what they allow, how they end one, and that free answers beside them stay free."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import pytest
import torch
from glm_runtime_torch.generation.candidates import select_candidates
from glm_runtime_torch.generation.constraint import (
    AllConstraints,
    RequiredBeginning,
    TokenConstraint,
    combine_constraints,
    keep_allowed,
)
from glm_runtime_torch.generation.engine import Engine
from glm_runtime_torch.generation.sampling import Sampler
from scripted_engine import VOCABULARY, CountingNetwork, count_from, counting_engine
from torch import Tensor

from glm_core import Delta, Sampling

SAMPLINGS = [
    Sampling(do_sample=False),
    Sampling(do_sample=True, temperature=1.0, top_k=3, top_p=0.5),
    Sampling(do_sample=True, temperature=1.0, top_k=0, top_p=0.9),
    Sampling(do_sample=True, temperature=1.0, top_k=0, top_p=1.0, repetition_penalty=1.3),
]


class Forbidding:
    """Forbids some tokens, for good, by a mask that is made once."""

    is_active, must_end = True, False

    def __init__(self, tokens: Sequence[int], size: int = VOCABULARY) -> None:
        self.taken: list[int] = []
        self._mask = torch.ones(size, dtype=torch.bool)
        self._mask[list(tokens)] = False

    def find_allowed(self) -> Tensor:
        return self._mask

    def take(self, token: int) -> None:
        self.taken.append(token)

    def copy(self) -> Forbidding:
        twin = Forbidding([], len(self._mask))
        twin._mask, twin.taken = self._mask, list(self.taken)
        return twin


class Dictating:
    """Dictates an answer token by token, and ends it."""

    is_active = True

    def __init__(self, answer: Sequence[int]) -> None:
        self._rest = list(answer)

    @property
    def must_end(self) -> bool:
        return not self._rest

    def find_allowed(self) -> Tensor:
        return torch.tensor(self._rest[:1])

    def take(self, token: int) -> None:
        assert token == self._rest.pop(0)

    def copy(self) -> Dictating:
        return Dictating(self._rest)


@pytest.fixture
def engine() -> Iterator[Engine]:
    opened = counting_engine(CountingNetwork(), slots=4)
    yield opened
    opened.close()


def read(stream: Iterator[Delta]) -> tuple[list[int], str | None]:
    """Tokens of an answer, and why it ended."""
    deltas = list(stream)
    return [token for delta in deltas for token in delta.token_ids], deltas[-1].finish_reason


# --- in the engine ---------------------------------------------------------------------------------


def test_constrained_answers_run_beside_free_ones(engine: Engine) -> None:
    """In one batch each answer is held to its own constraint, and a free one to none."""
    streams = [
        engine.stream(count_from(10, 5)),
        engine.stream(count_from(20, 5), Forbidding([23])),
        engine.stream(count_from(30, 5), Dictating([7, 8, 500])),
        engine.stream(count_from(40, 5), RequiredBeginning([(900, 3), (901, 4)])),
    ]
    free, forbidding, dictated, beginning = [read(stream) for stream in streams]
    assert free == ([11, 12, 13, 14, 15], "length")
    # after 22 every other token is equally unlikely, and the first of these is taken
    assert forbidding == ([21, 22, 0, 1, 2], "length")
    assert dictated == ([7, 8, 500], "stop")
    assert beginning == ([900, 3, 4, 5, 6], "length")


def test_constraint_is_told_every_token(engine: Engine) -> None:
    """What was chosen is taken, in order, once."""
    constraint = Forbidding([13])
    tokens, _ = read(engine.stream(count_from(10, 4), constraint))
    assert constraint.taken == tokens


def test_answer_that_may_have_no_token_is_empty(engine: Engine) -> None:
    """A constraint that lets nothing follow from the start ends the answer before its first token."""
    assert read(engine.stream(count_from(10), Dictating([]))) == ([], "stop")


def test_constraint_without_a_way_out_ends_its_own_request(engine: Engine) -> None:
    """One that allows nothing and does not end the answer is an error; the others go on."""
    stuck = engine.stream(count_from(10), Forbidding(range(VOCABULARY)))
    other = engine.stream(count_from(50))
    with pytest.raises(ValueError, match="must_end"):
        read(stuck)
    assert read(other) == ([51, 52, 53], "length")


# --- in the sampler --------------------------------------------------------------------------------


@pytest.mark.parametrize("sampling", SAMPLINGS)
def test_sampling_keeps_to_the_constraint(sampling: Sampling) -> None:
    """However tokens are chosen, only allowed ones are, and among these the model's favourite wins."""
    logits = torch.zeros(3000)
    logits[[3, 8]] = torch.tensor([50.0, 30.0])
    for seed in range(20):
        sampler = Sampler(sampling, seed, RequiredBeginning([(7, 9), (8, 9)]))
        assert sampler.count_candidates(3000) == 0
        answer = [sampler.choose(logits, [1], [])]
        answer.append(sampler.choose(logits, [1], answer))
        assert answer == [8, 9]
        assert sampler.choose(logits, [1], answer) == 3
        masked = Sampler(sampling, seed, Forbidding([3], 3000))
        assert masked.choose(logits, [1], []) == 8


@pytest.mark.parametrize("sampling", SAMPLINGS)
@pytest.mark.parametrize("prune", [False, True])
def test_constraint_that_forbids_nothing_changes_no_choice(sampling: Sampling, prune: bool) -> None:
    """Equal seeds give the tokens of a free answer, whether candidates of free rows are pruned or not."""
    generator = torch.Generator().manual_seed(1)
    steps = torch.randn(12, 2, 3000, generator=generator) * 3
    free, held = Sampler(sampling, 5), Sampler(sampling, 5, Forbidding([], 3000))
    answers: tuple[list[int], list[int]] = ([], [])
    for logits in steps:
        rows = select_candidates(logits[:1].repeat(2, 1), [free, held], prune=prune)
        for sampler, row, answer in zip((free, held), rows, answers, strict=True):
            answer.append(sampler.choose(row, [1], answer))
    assert answers[0] == answers[1]


def test_candidates_are_pruned_again_once_a_constraint_has_nothing_more_to_say() -> None:
    """After the prescribed beginning the answer costs what a free one costs."""
    sampler = Sampler(Sampling(do_sample=False), 0, RequiredBeginning([(7,)]))
    assert sampler.count_candidates(3000) == 0
    assert sampler.choose(torch.zeros(3000), [1], []) == 7
    assert sampler.count_candidates(3000) == 1


# --- by themselves ---------------------------------------------------------------------------------


def allowed(constraint: TokenConstraint) -> list[int] | None:
    """Ids that a constraint allows."""
    found = constraint.find_allowed()
    if found is None:
        return None
    return found.nonzero().flatten().tolist() if found.dtype == torch.bool else found.tolist()


def test_beginning_allows_what_is_left_of_its_ways() -> None:
    """Token by token the open ways narrow down; at the end of one, everything is allowed again."""
    beginning = RequiredBeginning([(1, 2, 3), (1, 4), (5, 6)])
    assert allowed(beginning) == [1, 5]
    beginning.take(1)
    assert allowed(beginning) == [2, 4]
    assert beginning.is_active
    beginning.take(4)
    assert allowed(beginning) is None
    assert not beginning.is_active
    assert not RequiredBeginning([]).is_active


@pytest.mark.parametrize(
    "constraint",
    [
        RequiredBeginning([(1, 2, 3), (1, 4)]),
        Dictating([1, 2, 9]),
        AllConstraints([RequiredBeginning([(1, 2, 3), (1, 4)]), Forbidding([4])]),
    ],
    ids=lambda one: type(one).__name__,
)
def test_looking_ahead_on_a_copy_leaves_the_constraint_alone(constraint: TokenConstraint) -> None:
    """A copy goes on by k tokens as the constraint itself would, which meanwhile stands where it stood."""
    ahead, before = constraint.copy(), allowed(constraint)
    seen = []
    for token in (1, 2):
        ahead.take(token)
        seen.append(allowed(ahead))
    assert allowed(constraint) == before
    for token, expected in zip((1, 2), seen, strict=True):
        constraint.take(token)
        assert allowed(constraint) == expected


def test_several_constraints_allow_what_each_of_them_allows() -> None:
    """Ids and masks are intersected in every combination; the end of one is the end of all."""
    beginning, mask = RequiredBeginning([(3,), (5,), (700,)]), Forbidding([5], 10)
    assert allowed(AllConstraints([beginning, mask])) == [3]
    assert allowed(AllConstraints([mask, beginning])) == [3]
    assert allowed(AllConstraints([beginning, RequiredBeginning([(5,), (6,)])])) == [5]
    assert allowed(AllConstraints([mask, Forbidding([0, 1, 2, 3], 8)])) == [4, 6, 7]
    assert allowed(AllConstraints([RequiredBeginning([]), mask])) == allowed(mask)
    assert AllConstraints([mask, Dictating([])]).must_end
    assert combine_constraints(None, None) is None
    assert combine_constraints(None, mask) is mask


def test_rows_behind_the_vocabulary_are_forbidden_by_a_mask_that_ends_before() -> None:
    """A network may have scores for more tokens than the tokenizer has."""
    scores = keep_allowed(torch.arange(6.0), torch.tensor([False, True, True]))
    assert torch.isfinite(scores).tolist() == [False, True, True, False, False, False]
