"""Chinese ROUGE and BLEU-4 of answers, computed as the original's evaluation does.

ROUGE compares words (jieba's cut), BLEU-4 single characters with smoothing method 3. Each score of
a row is in percent, rounded to four places; the score of a file is the mean over its rows.
"""

from __future__ import annotations

import functools
import logging
import tempfile
import warnings
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import platformdirs

METRICS = ("rouge-1", "rouge-2", "rouge-l", "bleu-4")
PLACES = 4  # the original rounds each row so, before it takes the mean


def score(prediction: str, label: str) -> dict[str, float]:
    """Return the scores of one answer, in percent.

    An answer or label that has nothing to compare (the original crashed on it) scores 0.
    """
    tools = _load_tools()
    scores = dict.fromkeys(METRICS, 0.0)
    if not prediction.strip() or not label.strip():
        return scores
    try:
        rouge: Mapping[str, Mapping[str, float]] = tools.rouge(
            " ".join(tools.cut(prediction)), " ".join(tools.cut(label))
        )[0]
        scores.update({name: _convert_to_percent(value["f"]) for name, value in rouge.items()})
    except ValueError:  # how rouge refuses a text without a sentence
        pass
    scores["bleu-4"] = _convert_to_percent(tools.bleu([list(label)], list(prediction)))
    return scores


def average_scores(rows: Iterable[Mapping[str, float]]) -> dict[str, float]:
    """Return the mean of each score over rows; nothing for no rows."""
    table = list(rows)
    if not table:
        return {}
    return {name: sum(row[name] for row in table) / len(table) for name in METRICS}


def _convert_to_percent(value: float) -> float:
    return round(float(value) * 100, PLACES)


@dataclass(frozen=True)
class _Tools:
    """The libraries' functions, imported once and kept quiet."""

    cut: Callable[[str], Iterable[str]]
    rouge: Callable[[str, str], list[Any]]
    bleu: Callable[[list[list[str]], list[str]], float]


@functools.cache
def _load_tools() -> _Tools:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of regular expressions and imports in the libraries' own code
        import jieba
        from nltk.translate.bleu_score import SmoothingFunction, sentence_bleu
        from rouge_chinese import Rouge
    jieba.setLogLevel(logging.CRITICAL)  # it tells how long its dictionary took, also when all is well
    cutter = jieba.Tokenizer()
    cutter.tmp_dir = str(_find_cache_directory())
    cutter.initialize()
    method = SmoothingFunction().method3
    return _Tools(cutter.cut, Rouge().get_scores, functools.partial(sentence_bleu, smoothing_function=method))


def _find_cache_directory() -> Path:
    """Return the folder for jieba's prepared dictionary: in the user's cache, else a temporary one."""
    directory = platformdirs.user_cache_path("glm") / "jieba"
    try:
        directory.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=directory):
            return directory
    except OSError:
        return Path(tempfile.mkdtemp(prefix="glm-jieba-"))
