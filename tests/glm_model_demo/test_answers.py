"""The bundled demo model answers questions that its training text never saw.

The 60 prompts and the key words of a right answer were written before the training text, by someone
who did not see it; the bar is 48 of 60 with greedy decoding.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import glm_core

PROMPTS = [
    json.loads(line) for line in (Path(__file__).parent / "answers.jsonl").read_text("utf-8").splitlines()
]
REQUIRED = 48
MAX_BYTES = 16 * 2**20


@pytest.fixture(scope="module")
def model() -> Iterator[glm_core.ChatModel]:
    with glm_core.load("demo", device="cpu", dtype="float32", offline=True) as loaded:
        yield loaded


def last_answer(model: glm_core.ChatModel, turns: list[str]) -> str:
    history: list[Any] = []
    answer = ""
    for turn in turns:
        answer, history = model.chat(turn, history, do_sample=False, max_new_tokens=160)
    return answer


def is_right(answer: str, expected: list[list[str]]) -> bool:
    return all(any(word.lower() in answer.lower() for word in group) for group in expected)


def test_the_prompts_are_half_chinese_and_half_english_with_threads() -> None:
    """60 prompts, 30 in each language, 14 of them needing the turn before."""
    assert len({prompt["id"] for prompt in PROMPTS}) == 60
    assert [sum(prompt["lang"] == language for prompt in PROMPTS) for language in ("zh", "en")] == [30, 30]
    assert sum(len(prompt["turns"]) == 2 for prompt in PROMPTS) == 14


def test_the_prompts_are_not_in_the_training_text() -> None:
    """No prompt stands in the text that the model was trained on."""
    training = Path(__file__).parents[2] / "plugins" / "glm_model_demo" / "training"
    lines = {
        line.strip().lower()
        for path in [*training.rglob("*.txt"), *training.rglob("*.jsonl"), *training.rglob("*.py")]
        for line in path.read_text("utf-8").splitlines()
    }
    assert len(lines) > 500
    multi_word = [turn for prompt in PROMPTS for turn in prompt["turns"] if len(turn) > 8]
    assert [turn for turn in multi_word if turn.lower() in lines] == []


def test_at_least_48_of_60_answers_are_right(model: glm_core.ChatModel) -> None:
    """Greedy answers hold the key words that a right answer holds."""
    wrong = []
    for prompt in PROMPTS:
        answer = last_answer(model, prompt["turns"])
        if not is_right(answer, prompt["expect"]):
            wrong.append(f"{prompt['id']} {prompt['turns']} -> {answer!r}")
    assert len(PROMPTS) - len(wrong) >= REQUIRED, "\n".join(wrong)


def test_first_questions_of_a_newcomer_are_answered(model: glm_core.ChatModel) -> None:
    """What the README promises: a greeting in Chinese, and how to quantise in English."""
    assert "你好" in last_answer(model, ["你好"])
    assert "--quantize" in last_answer(model, ["How do I quantise a model?"])


def test_it_says_that_it_is_a_demo(model: glm_core.ChatModel) -> None:
    """Asked what it is, it does not claim to be ChatGLM-6B."""
    assert "演示" in last_answer(model, ["你是谁？"])
    assert "demo" in last_answer(model, ["Who are you?"]).lower()


def test_the_model_is_small_enough_to_ship() -> None:
    """All files of the model together stay below 16 MB."""
    directory = glm_core.resolve_model("demo")
    assert sum(path.stat().st_size for path in directory.iterdir()) <= MAX_BYTES
