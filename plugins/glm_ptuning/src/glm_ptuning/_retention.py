"""Measuring how much of the base model's behaviour a tuned model keeps, by asking both the same questions.

Tuning on one task makes a model forget others. The score says how often the tuned model still gives
the base model's answer to questions that have nothing to do with the task.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

from glm_core.errors import ConfigError
from glm_core.records import ChatRequest, Message, Sampling

MAX_NEW_TOKENS = 64  # an answer that differs does so early; longer ones only take time
BUILT_IN = "retention_prompts.txt"


@dataclass(frozen=True)
class Retention:
    """The comparison over all questions, both in percent.

    Attributes:
        exact: answers that are the same, character for character.
        similarity: mean likeness of the answers: twice the characters that match, in order, over all.
    """

    exact: float
    similarity: float

    def as_metrics(self) -> dict[str, float]:
        """Return the scores by the names that reports and files use."""
        return {"retention_exact": self.exact, "retention_similarity": self.similarity}


def read_retention_prompts(path: Path | None = None) -> tuple[str, ...]:
    """Return the questions of a file, one a line, or the built-in ones in Chinese and English.

    Raises:
        ConfigError: the file cannot be read or holds none.
    """
    if path is None:
        text = resources.files(__package__).joinpath(BUILT_IN).read_text("utf-8")
    else:
        try:
            text = path.read_text("utf-8-sig")
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"retention_file {path} cannot be read: {error}") from error
    prompts = tuple(line.strip() for line in text.splitlines() if line.strip())
    if not prompts:
        raise ConfigError(f"retention_file {path} holds no question; write one a line")
    return prompts


def build_retention_requests(prompts: Iterable[str], adapter: str | None) -> Iterator[ChatRequest]:
    """Yield greedy requests for short answers, each as a chat without history."""
    sampling = Sampling(do_sample=False, max_new_tokens=MAX_NEW_TOKENS)
    for prompt in prompts:
        yield ChatRequest(messages=(Message("user", prompt),), sampling=sampling, adapter=adapter)


def compare(base: Sequence[str], tuned: Sequence[str]) -> Retention:
    """Return the score of two lists of answers to the same questions."""
    pairs = list(zip(base, tuned, strict=True))
    return Retention(
        exact=100 * sum(first == second for first, second in pairs) / len(pairs),
        similarity=100 * sum(_measure_similarity(first, second) for first, second in pairs) / len(pairs),
    )


def _measure_similarity(first: str, second: str) -> float:
    # autojunk would ignore frequent characters in answers of 200 characters and more
    return difflib.SequenceMatcher(None, first, second, autojunk=False).ratio()
