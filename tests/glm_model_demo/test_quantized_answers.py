"""The demo model answers as well when it is quantised, while it is loaded or beforehand."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

import glm_core
from glm_core import cli

PROMPTS = [
    json.loads(line) for line in (Path(__file__).parent / "answers.jsonl").read_text("utf-8").splitlines()
]
INT4_MAY_MISS = 2
CONCURRENCY = 8


def right_answers(model: glm_core.ChatModel) -> set[str]:
    """Return the ids of the prompts whose greedy answer holds the words of a right one.

    Several are asked at once, which is much faster and changes no answer.
    """

    def is_right(prompt: dict[str, Any]) -> bool:
        history: list[Any] = []
        answer = ""
        for turn in prompt["turns"]:
            answer, history = model.chat(turn, history, do_sample=False, max_new_tokens=160)
        return all(any(word.lower() in answer.lower() for word in group) for group in prompt["expect"])

    with ThreadPoolExecutor(CONCURRENCY) as pool:
        right = pool.map(is_right, PROMPTS)
        return {str(prompt["id"]) for prompt, is_one in zip(PROMPTS, right, strict=True) if is_one}


def answered(model: str | Path = "demo", quantize: str = "none") -> set[str]:
    with glm_core.load(model, device="cpu", dtype="float32", quantize=quantize, offline=True) as loaded:
        return right_answers(loaded)


@pytest.fixture(scope="module")
def of_the_float_model() -> set[str]:
    right = answered()
    assert len(right) >= 48
    return right


def written(folder: Path, *options: str) -> Path:
    """A copy that `glm quantize` wrote."""
    assert cli.main(["quantize", "demo", str(folder / "out"), *options]) == 0
    return folder / "out"


def test_int8_answers_everything_that_the_float_model_does(of_the_float_model: set[str]) -> None:
    """Quantised while it is loaded."""
    assert of_the_float_model - answered(quantize="int8") == set()


def test_int8_on_the_disk_answers_everything_that_the_float_model_does(
    of_the_float_model: set[str], tmp_path: Path
) -> None:
    """Written by `glm quantize`."""
    assert of_the_float_model - answered(written(tmp_path, "--bits", "8")) == set()


def test_int4_misses_at_most_two_more(of_the_float_model: set[str]) -> None:
    """One scale per row, quantised while it is loaded."""
    assert len(answered(quantize="int4")) >= len(of_the_float_model) - INT4_MAY_MISS


@pytest.mark.parametrize("options", [[], ["--group-size", "64"], ["--group-size", "32"]])
def test_int4_on_the_disk_misses_at_most_two_more(
    of_the_float_model: set[str], tmp_path: Path, options: list[str]
) -> None:
    """One scale per row, as published, and in groups."""
    copy = written(tmp_path, "--bits", "4", *options)
    assert len(answered(copy)) >= len(of_the_float_model) - INT4_MAY_MISS
