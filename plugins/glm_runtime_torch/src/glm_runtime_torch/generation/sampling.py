"""From logits to the next token, one request at a time.

Order as in the original (transformers 4.27): invalid scores, repetition penalty, temperature,
top-k, top-p; what our callers add, penalties for presence and constraints, comes before the temperature.

Axes: V vocabulary · K candidates
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from glm_core import Sampling

from .constraint import TokenConstraint, keep_allowed

# What the original does with NaN or infinite scores: token 5 for certain, in every family.
FALLBACK_TOKEN = 5
# Below this the best token is certain, and dividing by it could overflow float32.
MIN_TEMPERATURE = 1e-5
FALLBACK_SCORE = 5e4  # the original's number; what counts is that exp(-5e4) is 0 in float32
# Nuclei are rarely wider; one that is takes the whole vocabulary. Sorting 1,024 scores costs little beside
# the search for them, sorting a vocabulary of 130,528 does not.
MAX_NUCLEUS = 1024
# Beside the k likeliest tokens, those that are as likely as the last of them: top-k keeps ties, so the row
# must be seen to fall below the k-th score. More ties than this take the whole row.
MAX_TIES = 16


@dataclass(frozen=True)
class Candidates:
    """The likeliest tokens of one row; no other is likelier than the last of them.

    Attributes:
        scores: ``[K]`` float32 on the CPU, descending.
        tokens: ``[K]`` int64, their ids.
        log_mass: logarithm of the summed exponentials of all scores of the row, divided by the
            temperature; where the nucleus is asked for.
    """

    scores: Tensor
    tokens: Tensor
    log_mass: float = 0.0

    def compute_total_probability(self, temperature: float) -> float:
        """Return the probability of these tokens together."""
        return math.exp(float((self.scores / temperature).logsumexp(dim=-1)) - self.log_mass)

    def sort_by_token(self) -> tuple[Tensor, Tensor]:
        """Return the ids, ascending, and their scores."""
        tokens, order = self.tokens.sort()
        return tokens, self.scores[order]


class Sampler:
    """Chooses the tokens of one request; equal seeds give equal choices.

    Args:
        sampling: every field set (see `Sampling.complete_with`).
        seed: ``None`` takes a fresh one.
        constraint: what the answer is held to; it is told every token that is chosen.
    """

    def __init__(
        self, sampling: Sampling, seed: int | None = None, constraint: TokenConstraint | None = None
    ) -> None:
        # Whole numbers are as good for users, but torch takes no more than 64 bits of them.
        numbers = ("temperature", "repetition_penalty", "presence_penalty", "frequency_penalty")
        given = {name: getattr(sampling, name) for name in numbers}
        floats: dict[str, Any] = {name: float(one) for name, one in given.items() if one is not None}
        self._sampling = dataclasses.replace(sampling, **floats)
        # Gone once it has nothing more to say, so that a free answer costs nothing.
        self._constraint = constraint if constraint is not None and constraint.is_active else None
        # Always on the CPU: generators of different devices give different numbers for one seed.
        self._generator = torch.Generator()
        if seed is None:
            self._generator.seed()
        else:
            self._generator.manual_seed(seed)

    def must_end(self) -> bool:
        """Return whether the answer's constraint lets nothing follow."""
        return self._constraint is not None and self._constraint.must_end

    @property
    def _is_greedy(self) -> bool:
        return not self._sampling.do_sample or (self._sampling.temperature or 0.0) < MIN_TEMPERATURE

    def count_candidates(self, vocab_size: int) -> int:
        """Return how many of the likeliest tokens are usually enough to choose from; 0 = all are needed."""
        sampling = self._sampling
        penalties = (sampling.presence_penalty, sampling.frequency_penalty)
        # All may be needed: these move scores, or forbid the likeliest.
        if self._constraint or any(penalties) or sampling.repetition_penalty not in (None, 1.0):
            return 0
        if self._is_greedy:
            return 1
        narrow = sampling.top_p is not None and sampling.top_p < 1.0
        wanted = sampling.top_k + MAX_TIES if sampling.top_k else MAX_NUCLEUS if narrow else vocab_size
        return wanted if wanted < vocab_size else 0

    @property
    def nucleus_temperature(self) -> float | None:
        """The temperature at which these `Candidates` need their ``log_mass``; ``None`` = they do not."""
        return None if self._is_greedy or self._sampling.top_k else self._sampling.temperature

    def can_choose_from(self, candidates: Candidates) -> bool:
        """Return whether the choice among all tokens is one among these."""
        sampling = self._sampling
        if self._is_greedy:
            return True
        if sampling.top_k:
            return bool(candidates.scores[sampling.top_k - 1] > candidates.scores[-1])
        assert sampling.temperature is not None
        assert sampling.top_p is not None
        return candidates.compute_total_probability(sampling.temperature) > sampling.top_p

    def choose(self, logits: Tensor | Candidates, prompt: Sequence[int], answer: Sequence[int]) -> int:
        """Choose the next token.

        Args:
            logits: ``[V]`` of the last position, any dtype and device; or candidates that suffice.
            prompt: ids of the prompt, for the repetition penalty.
            answer: ids of the answer so far, for all penalties.

        Raises:
            ValueError: the constraint allows nothing.
        """
        if isinstance(logits, Candidates):
            return self._choose_among(logits)
        token = self._choose_from_all(logits, prompt, answer)
        if self._constraint is not None:
            self._constraint.take(token)
            if not self._constraint.is_active:
                self._constraint = None
        return token

    def _choose_from_all(self, logits: Tensor, prompt: Sequence[int], answer: Sequence[int]) -> int:
        sampling = self._sampling
        scores = replace_invalid_scores(logits.float().cpu())
        if sampling.repetition_penalty not in (None, 1.0):
            scores = penalise_repetition(scores, [*prompt, *answer], sampling.repetition_penalty)
        if answer and (sampling.presence_penalty or sampling.frequency_penalty):
            scores = penalise_presence(
                scores, answer, sampling.presence_penalty or 0.0, sampling.frequency_penalty or 0.0
            )
        allowed = None if self._constraint is None else self._constraint.find_allowed()
        if allowed is not None:
            scores = keep_allowed(scores, allowed)
        if self._is_greedy:
            return int(scores.argmax())
        assert sampling.temperature is not None
        tokens, kept = warp_candidates(
            scores,
            temperature=sampling.temperature,
            top_k=sampling.top_k or 0,
            top_p=1.0 if sampling.top_p is None else sampling.top_p,
        )
        return self._draw(tokens, kept)

    def _choose_among(self, candidates: Candidates) -> int:
        """Choose as from a whole row, from what a device kept of it."""
        sampling = self._sampling
        tokens, scores = candidates.sort_by_token()
        if self._is_greedy:
            return int(tokens[scores.argmax()])
        temperature, top_p = sampling.temperature, 1.0 if sampling.top_p is None else sampling.top_p
        assert temperature is not None
        mass = 1.0
        if sampling.top_k:
            likely = scores >= candidates.scores[sampling.top_k - 1]
            tokens, scores = tokens[likely], scores[likely]
        else:
            mass = candidates.compute_total_probability(temperature)
        return self._draw(
            tokens,
            warp_scores(scores, temperature=temperature, top_k=0, top_p=top_p, mass=mass),
        )

    def _draw(self, tokens: Tensor | None, scores: Tensor) -> int:
        chosen = torch.multinomial(scores.softmax(dim=-1), 1, generator=self._generator)
        return int(chosen if tokens is None else tokens[chosen])


def replace_invalid_scores(scores: Tensor) -> Tensor:
    """Return the scores; if any is NaN or infinite, 0 for all and 5e4 for token 5."""
    if torch.isfinite(scores).all():
        return scores
    scores = torch.zeros_like(scores)
    scores[..., FALLBACK_TOKEN] = FALLBACK_SCORE
    return scores


def penalise_repetition(scores: Tensor, seen: Sequence[int], penalty: float) -> Tensor:
    """Make tokens of ``seen`` less likely. Source: CTRL, arXiv:1909.05858."""
    index = torch.tensor(sorted(set(seen)), dtype=torch.int64)
    values = scores[index]
    return scores.index_copy(0, index, torch.where(values < 0, values * penalty, values / penalty))


def penalise_presence(scores: Tensor, answer: Sequence[int], presence: float, frequency: float) -> Tensor:
    """Subtract ``presence`` from tokens of the answer, and ``frequency`` for each time (OpenAI's API)."""
    counts = torch.bincount(torch.tensor(answer), minlength=scores.shape[-1])
    return scores - presence * (counts > 0) - frequency * counts


def warp_candidates(
    scores: Tensor, *, temperature: float, top_k: int, top_p: float
) -> tuple[Tensor | None, Tensor]:
    """Do what `warp_scores` does without sorting a vocabulary of which a few tokens are kept.

    Returns:
        Ids of the tokens that may be chosen, ascending (``None`` = all), and their scores; the
        softmax over these equals the softmax over all of `warp_scores`.
    """
    size = scores.shape[-1]
    if 0 < top_k < size:
        tokens = (scores >= scores.topk(top_k).values[-1]).nonzero().flatten()
        return tokens, warp_scores(scores[tokens], temperature=temperature, top_k=0, top_p=top_p)
    if top_p < 1.0 and size > MAX_NUCLEUS:
        tokens = scores.topk(MAX_NUCLEUS).indices.sort().values
        mass = float((scores / temperature).softmax(dim=-1)[tokens].sum())
        if mass > top_p:  # the nucleus lies within
            kept = warp_scores(scores[tokens], temperature=temperature, top_k=0, top_p=top_p, mass=mass)
            return tokens, kept
    return None, warp_scores(scores, temperature=temperature, top_k=0, top_p=top_p)


def warp_scores(scores: Tensor, *, temperature: float, top_k: int, top_p: float, mass: float = 1.0) -> Tensor:
    """Apply temperature, then top-k, then nucleus; excluded tokens get minus infinity.

    Args:
        scores: ``[V]`` float32.
        temperature: divides the scores; more than 0.
        top_k: keep that many (and ties with the last); 0 keeps all.
        top_p: keep the smallest set of tokens whose probability reaches it, at least one.
        mass: probability of these tokens together, where they are the likeliest of more.
    """
    scores = scores / temperature
    if 0 < top_k < scores.shape[-1]:
        threshold = scores.topk(top_k).values[-1]
        scores = scores.masked_fill(scores < threshold, -torch.inf)
    if top_p < 1.0:
        ascending, order = scores.sort(descending=False)
        outside = 1 - mass + mass * ascending.softmax(dim=-1).cumsum(dim=-1) <= 1 - top_p
        outside[-1] = False
        scores = scores.index_fill(0, order[outside], -torch.inf)
    return scores
