"""Questions of a wanted number of tokens, whatever the tokenizer: grown until the runtime's count fits."""

from __future__ import annotations

from collections.abc import Callable

from glm_core.errors import ConfigError

WORDS = ("the", "of", "and", "to", "in", "it", "for", "on", "as", "we", "so", "at")
VARIED_WORDS = 4  # of 12 words each: 20,736 different questions, more than a measurement asks
MAX_PROBES = 4  # each costs a prefill; the slope of words to tokens is found by the second
TOLERANCE = 0.02  # of the wanted length; speeds per token do not change visibly within it

CountTokens = Callable[[str], int]
"""How many prompt tokens a question has, control tokens included."""


def make_question(num_words: int, number: int = 0) -> str:
    """Return a question of so many words; each ``number`` gives another one.

    Two of them differ within the first `VARIED_WORDS` words, so that no runtime can reuse what it
    computed for an earlier one.
    """
    varied = [WORDS[number // len(WORDS) ** place % len(WORDS)] for place in range(VARIED_WORDS)]
    rest = [WORDS[index % len(WORDS)] for index in range(max(0, num_words - VARIED_WORDS))]
    return " ".join([*varied, *rest][:num_words])


def find_word_count(wanted: int, count_tokens: CountTokens) -> int:
    """Find how many words make a question of ``wanted`` tokens, within 2 % or one word.

    Args:
        wanted: tokens, control tokens included.
        count_tokens: asks the runtime; each call costs a prefill.

    Raises:
        ConfigError: even a question of one word is longer.
    """
    words, found = 1, count_tokens(make_question(1))
    if found > wanted:
        raise ConfigError(
            f"--prompt-tokens {wanted} is too short: a question of one word has {found} tokens here. "
            f"Pass {found} or more."
        )
    per_word, best = 1.0, (abs(found - wanted), words)
    for _ in range(MAX_PROBES):
        if abs(found - wanted) <= max(TOLERANCE * wanted, per_word / 2):
            break
        guess = max(1, words + round((wanted - found) / per_word))
        if guess == words:
            break
        longer = count_tokens(make_question(guess))
        if longer != found:
            per_word = max((longer - found) / (guess - words), 0.01)
        words, found = guess, longer
        best = min(best, (abs(found - wanted), words))
    return best[1]
