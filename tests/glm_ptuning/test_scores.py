"""ROUGE and BLEU-4 against sums done by hand and a second implementation of the formulas."""

from __future__ import annotations

import json
import math
import os
from collections import Counter
from pathlib import Path

import pytest
from fake_plugins import run_python
from glm_ptuning._scores import METRICS, average_scores, score
from glm_ptuning._source import cut_answer
from glm_runtime_torch.tokenizers.chatglm import ChatGLMTokenizer
from goldens import fixtures_or_skip

PAIRS = [
    ("今天天气很好", "今天天气不好"),
    ("这件衬衫的款式非常的宽松", "这件衬衫的款式宽松，利落的线条显瘦"),
    ("蕾丝连衣裙", "蕾丝连衣裙，优雅大气"),
    ("a b c", "甲乙丙"),
    ("好", "好"),
]


def bleu4(prediction: str, label: str) -> float:
    """BLEU-4 of characters with geometric smoothing (NIST's, method 3), written from its definition."""
    logs, zeros = 0.0, 1
    for n in range(1, 5):
        have = Counter(prediction[i : i + n] for i in range(len(prediction) - n + 1))
        want = Counter(label[i : i + n] for i in range(len(label) - n + 1))
        hits = sum((have & want).values())
        if n == 1 and hits == 0:
            return 0.0
        total = max(1, len(prediction) - n + 1)
        if hits == 0:
            logs += math.log(1 / (2**zeros * total))
            zeros += 1
        else:
            logs += math.log(hits / total)
    short = len(prediction) < len(label)
    return (math.exp(1 - len(label) / len(prediction)) if short else 1.0) * math.exp(logs / 4)


@pytest.mark.parametrize(("prediction", "label"), PAIRS)
def test_bleu_is_that_of_its_definition(prediction: str, label: str) -> None:
    """Characters, up to four in a row, smoothing method 3, in percent with four places."""
    assert score(prediction, label)["bleu-4"] == pytest.approx(100 * bleu4(prediction, label), abs=6e-5)


def test_bleu_by_hand() -> None:
    """One character right of one: 1, and 1/2, 1/4, 1/8 for what cannot be there: 2 ** (-6 / 4)."""
    assert score("好", "好")["bleu-4"] == 35.3553


def test_rouge_by_hand() -> None:
    """Of 今天天气 | 很 | 好 and 今天天气 | 不好 one word agrees: P 1/3, R 1/2, F 0.4."""
    scores = score("今天天气很好", "今天天气不好")
    assert scores["rouge-1"] == pytest.approx(40.0, abs=1e-4)
    assert scores["rouge-2"] == 0.0
    assert scores["rouge-l"] == pytest.approx(40.0, abs=1e-4)


def test_rouge_of_longer_texts_by_hand() -> None:
    """这件 衬衫 的 款式 非常 的 宽松 to 这件 衬衫 的 款式 宽松 。 很 好.

    ROUGE-1 takes each word once: 5 of 6 and of 8, F 5/7. ROUGE-2: 3 of 6 and of 7, F 6/13. ROUGE-L
    counts each word: 5 of 7 and of 8, F 2/3.
    """
    scores = score("这件衬衫的款式非常的宽松", "这件衬衫的款式宽松。很好")
    assert scores["rouge-1"] == pytest.approx(500 / 7, abs=1e-4)
    assert scores["rouge-2"] == pytest.approx(600 / 13, abs=1e-4)
    assert scores["rouge-l"] == pytest.approx(200 / 3, abs=1e-4)


@pytest.mark.parametrize(
    ("prediction", "label"), [("", "好"), ("好", ""), (" \n", "好"), ("", ""), ("\n", "\n")]
)
def test_nothing_scores_zero(prediction: str, label: str) -> None:
    """An empty answer or label, on which the original crashed, scores 0 everywhere."""
    assert score(prediction, label) == dict.fromkeys(METRICS, 0.0)


@pytest.mark.parametrize(
    "text", ["优雅大气个性别致，造就出了非凡的气质。", "hello there, how are you", "今天天气很好"]
)
def test_the_label_itself_scores_all(text: str) -> None:
    """A perfect answer has 100 everywhere; scores stay within 0 and 100 for any pair."""
    assert score(text, text) == pytest.approx(dict.fromkeys(METRICS, 100.0), abs=1e-3)
    for prediction, label in PAIRS:
        assert all(0 <= value <= 100 for value in score(prediction, label).values())


@pytest.mark.parametrize("text", ["。", "。。。！", "\u200b", "😀", "\ud83d", "a" * 3000, "的" * 3000])
def test_odd_texts_do_not_crash(text: str) -> None:
    """Punctuation alone, an emoji, half of one, and long repetitions all get scores."""
    assert set(score(text, "这件衬衫")) == set(METRICS)
    assert set(score("这件衬衫", text)) == set(METRICS)


def test_the_score_of_a_file_is_the_mean() -> None:
    """Rows count alike; no rows have no score."""
    rows = [score("好", "好"), score("", "好")]
    assert average_scores(rows)["bleu-4"] == pytest.approx(35.3553 / 2)
    assert average_scores([]) == {}


@pytest.mark.skipif(os.name == "nt", reason="needs a home that cannot be written")
def test_the_word_list_is_silent_and_needs_no_home(tmp_path: Path) -> None:
    """Jieba prints nothing, leaves the shared temporary folder alone, and does without its cache."""
    (tmp_path / "tmp").mkdir()
    (tmp_path / "file").write_text("")
    for cache in (tmp_path / "cache", tmp_path / "file" / "none"):
        done = run_python(
            "-c",
            "from glm_ptuning._scores import score; print(score('今天天气很好', '今天天气不好')['rouge-1'])",
            environ={"XDG_CACHE_HOME": str(cache), "TMPDIR": str(tmp_path / "tmp")},
        )
        assert (done.returncode, done.stdout, done.stderr) == (0, "40.0\n", "")
    assert (tmp_path / "cache" / "glm" / "jieba" / "jieba.cache").is_file()
    assert not (tmp_path / "tmp" / "jieba.cache").exists()


def test_a_perfect_model_scores_100_with_the_published_lengths() -> None:
    """With the real vocabulary 140 of ADGEN's 270 answers are longer than a model may answer."""
    fixtures = fixtures_or_skip()
    tokenizer = ChatGLMTokenizer(fixtures / "tokenizers" / "chatglm-6b")
    lines = (fixtures / "adgen" / "dev.json").read_text("utf-8").splitlines()
    answers = [json.loads(line)["summary"] for line in lines]
    references = [cut_answer(tokenizer, answer, 64) for answer in answers]
    assert sum(is_cut for _, is_cut in references) == 140
    # What such a model can answer: the first 62 tokens, beside the two that the tokenizer adds to a text.
    perfect = [tokenizer.decode(tokenizer.encode(answer)[:62]) for answer in answers]
    pairs = zip(perfect, references, strict=True)
    assert average_scores(score(text, label) for text, (label, _) in pairs) == dict.fromkeys(METRICS, 100.0)
