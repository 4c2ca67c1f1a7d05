"""What an answer may consist of: constraints on its next token.

Axes: V vocabulary · n allowed tokens
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, Self

import torch
from torch import Tensor

_NOTHING_ALLOWED = (
    "the constraint on the answer allows no token and does not end the answer; "
    "its must_end must be true where nothing may follow"
)


class TokenConstraint(Protocol):
    """Says which tokens one answer may go on with, and is told which it went on with.

    Between two tokens it is asked at most once for each property and method, on the engine's thread; what
    it says may be the same tensor every time its state is the same, so a vocabulary of 130,528 tokens
    costs a mask that was made once.
    """

    @property
    def is_active(self) -> bool:
        """Whether it may still forbid a token or end the answer; ``False`` is for good.

        While it is, all scores of the row are fetched from the device instead of a few candidates.
        """
        ...

    @property
    def must_end(self) -> bool:
        """Whether nothing may follow: the answer ends as if the model had ended it."""
        ...

    def find_allowed(self) -> Tensor | None:
        """Return the tokens that may come next, on the CPU; ``None`` = every token.

        Either ids ``[n]`` int64, ascending, where few are allowed, or a mask ``[V]`` bool, True = allowed.
        At least one token must be allowed unless the answer must end. The model's own ends of an answer
        are tokens like any other: not allowed means that the answer may not end here.
        """
        ...

    def take(self, token: int) -> None:
        """Go on by a token: the answer has it now."""
        ...

    def copy(self) -> Self:
        """Return a constraint in the same state that goes on by itself.

        Looking ahead by k tokens means taking them on a copy, one after the other; the constraint itself
        then takes those that the model confirmed.
        """
        ...


class RequiredBeginning:
    """`TokenConstraint` of answers that must begin in one of several ways.

    Among the ways that are still open the model chooses; with one way left nothing is chosen. After the
    end of a way everything is allowed.

    Args:
        ways: token ids that the answer may begin with; none = the answer is free from the start.
    """

    def __init__(self, ways: Sequence[Sequence[int]]) -> None:
        self._set([tuple(way) for way in ways])

    def _set(self, rests: list[tuple[int, ...]]) -> None:
        """Set what is left of each open way."""
        self._rests = [] if () in rests else rests  # one that is complete is enough
        self._allowed: Tensor | None = None
        if self._rests:
            self._allowed = torch.tensor(sorted({rest[0] for rest in self._rests}), dtype=torch.int64)

    @property
    def is_active(self) -> bool:
        """See `TokenConstraint.is_active`."""
        return bool(self._rests)

    @property
    def must_end(self) -> bool:
        """See `TokenConstraint.must_end`; a beginning ends nothing."""
        return False

    def find_allowed(self) -> Tensor | None:
        """See `TokenConstraint.find_allowed`."""
        return self._allowed

    def take(self, token: int) -> None:
        """See `TokenConstraint.take`; a token that no way goes on with frees the answer."""
        if self._rests:
            self._set([rest[1:] for rest in self._rests if rest[0] == token])

    def copy(self) -> RequiredBeginning:
        """See `TokenConstraint.copy`."""
        return RequiredBeginning(self._rests)


class AllConstraints:
    """`TokenConstraint` that holds an answer to several at once.

    Args:
        members: each of them.
    """

    def __init__(self, members: Sequence[TokenConstraint]) -> None:
        self._members = tuple(members)

    @property
    def is_active(self) -> bool:
        """See `TokenConstraint.is_active`."""
        return any(member.is_active for member in self._members)

    @property
    def must_end(self) -> bool:
        """See `TokenConstraint.must_end`; any of them may end the answer."""
        return any(member.must_end for member in self._members)

    def find_allowed(self) -> Tensor | None:
        """See `TokenConstraint.find_allowed`; what all of them allow."""
        found: Tensor | None = None
        for member in self._members:
            allowed = member.find_allowed()
            found = allowed if found is None else found if allowed is None else _intersect(found, allowed)
        return found

    def take(self, token: int) -> None:
        """See `TokenConstraint.take`."""
        for member in self._members:
            member.take(token)

    def copy(self) -> AllConstraints:
        """See `TokenConstraint.copy`."""
        return AllConstraints([member.copy() for member in self._members])


def combine_constraints(*constraints: TokenConstraint | None) -> TokenConstraint | None:
    """Return what holds an answer to all of them; ``None`` where there is none."""
    given = [constraint for constraint in constraints if constraint is not None]
    return AllConstraints(given) if len(given) > 1 else given[0] if given else None


def keep_allowed(scores: Tensor, allowed: Tensor) -> Tensor:
    """Set the score of every token that is not allowed to minus infinity.

    Args:
        scores: ``[V]``.
        allowed: ids or a mask, see `TokenConstraint.find_allowed`; a mask shorter than V forbids the rest.

    Raises:
        ValueError: nothing is allowed.
    """
    if allowed.dtype == torch.bool:
        if not bool(allowed.any()):
            raise ValueError(_NOTHING_ALLOWED)
        if len(allowed) < len(scores):  # networks have rows for no token behind those of the vocabulary
            allowed = torch.nn.functional.pad(allowed, (0, len(scores) - len(allowed)))
        return scores.masked_fill(~allowed[: len(scores)], -torch.inf)
    if not len(allowed):
        raise ValueError(_NOTHING_ALLOWED)
    return torch.full_like(scores, -torch.inf).index_copy(0, allowed, scores[allowed])


def _intersect(first: Tensor, second: Tensor) -> Tensor:
    if first.dtype == torch.bool and second.dtype == torch.bool:
        size = min(len(first), len(second))
        return first[:size] & second[:size]
    if first.dtype == torch.bool:
        first, second = second, first
    if second.dtype == torch.bool:
        first = first[first < len(second)]
        return first[second[first]]
    return first[torch.isin(first, second)]
