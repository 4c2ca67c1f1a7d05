"""From logits to the next token, one request at a time.

Order as in the original (transformers 4.27): invalid scores, repetition penalty, temperature,
top-k, top-p. Axes: V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from glm_core import Sampling

# What the original does with NaN or infinite scores: token 5 for certain, in every family.
FALLBACK_TOKEN = 5
FALLBACK_SCORE = 5e4


class Sampler:
    """Chooses the tokens of one request; equal seeds give equal choices.

    Args:
        sampling: every field set (see `Sampling.or_else`).
        seed: ``None`` takes a fresh one.
    """

    def __init__(self, sampling: Sampling, seed: int | None = None) -> None:
        self._sampling = sampling
        # Always on the CPU: generators of different devices give different numbers for one seed.
        self._generator = torch.Generator()
        if seed is None:
            self._generator.seed()
        else:
            self._generator.manual_seed(seed)

    def choose(self, logits: Tensor, seen: Sequence[int]) -> int:
        """The next token.

        Args:
            logits: ``[V]`` of the last position, any dtype and device.
            seen: ids of prompt and answer so far, for the repetition penalty.
        """
        scores = replace_invalid_scores(logits.float().cpu())
        penalty = self._sampling.repetition_penalty
        if penalty is not None and penalty != 1.0:
            scores = penalise_repetition(scores, seen, penalty)
        if not self._sampling.do_sample or not self._sampling.temperature:
            return int(scores.argmax())
        scores = warp_scores(
            scores,
            temperature=self._sampling.temperature,
            top_k=self._sampling.top_k or 0,
            top_p=1.0 if self._sampling.top_p is None else self._sampling.top_p,
        )
        return int(torch.multinomial(scores.softmax(dim=-1), 1, generator=self._generator))


def replace_invalid_scores(scores: Tensor) -> Tensor:
    """If anything is NaN or infinite, all scores become 0 and that of token 5 becomes 5e4."""
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


def warp_scores(scores: Tensor, *, temperature: float, top_k: int, top_p: float) -> Tensor:
    """Temperature, then top-k, then nucleus; excluded tokens get minus infinity.

    Args:
        scores: ``[V]`` float32.
        temperature: divides the scores; more than 0.
        top_k: keep that many (and ties with the last); 0 keeps all.
        top_p: keep the smallest set of tokens whose probability reaches it, at least one.
    """
    scores = scores / temperature
    if 0 < top_k < scores.shape[-1]:
        threshold = scores.topk(top_k).values[-1]
        scores = scores.masked_fill(scores < threshold, -torch.inf)
    if top_p < 1.0:
        ascending, order = scores.sort(descending=False)
        outside = ascending.softmax(dim=-1).cumsum(dim=-1) <= 1 - top_p
        outside[-1] = False
        scores = scores.index_fill(0, order[outside], -torch.inf)
    return scores
