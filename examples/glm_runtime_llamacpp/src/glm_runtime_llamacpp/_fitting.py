"""Which of a conversation's oldest rounds must go, found without encoding it again for each of them."""

from __future__ import annotations

import bisect
import itertools
from collections.abc import Callable, Sequence


def find_first_round(
    count: Callable[[int], int], measure: Callable[[], Sequence[int]], starts: Sequence[int], most: int
) -> int:
    """Return how many rounds must go at least; all but the last at most.

    To count the whole prompt for each round that goes takes time with the square of its length. So the sizes
    of the messages say where the boundary is about, and only near it whole prompts are counted.

    Args:
        count: from a number of rounds left out to the tokens of the prompt.
        measure: returns the tokens of each message alone; asked only where rounds must go.
        starts: for each number of rounds left out, how many messages these are; 0 first.
        most: tokens that the prompt may have.
    """
    last = len(starts) - 1
    if last == 0 or (whole := count(0)) <= most:
        return 0
    if last == 1 or (least := count(last)) > most:
        return last
    sizes = measure()[: starts[last]]
    # What the template writes around the messages is shared out evenly.
    around = (whole - least - sum(sizes)) / starts[last]
    sums = list(itertools.accumulate((size + around for size in sizes), initial=0.0))
    guess = bisect.bisect_left([sums[start] for start in starts], whole - most)
    low, high, step = 0, last, 1  # `low` rounds are too few, `high` are enough
    at = min(max(guess, 1), last - 1)
    # Away from the guess in steps that double, until the boundary is passed; then halves.
    while low < at < high:
        if count(at) <= most:
            high, at = at, at - step
        else:
            low, at = at, at + step
        step *= 2
    return bisect.bisect_left(range(high), True, low + 1, high, key=lambda rounds: count(rounds) <= most)
