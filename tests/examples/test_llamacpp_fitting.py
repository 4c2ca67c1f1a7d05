"""Fitting a history in the llama.cpp example: the fewest rounds go, and few prompts are encoded for it."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, strategies as st

SOURCE = Path(__file__).parents[2] / "examples/glm_runtime_llamacpp/src"


@pytest.fixture(scope="module")
def fitting() -> Any:
    """The module, which needs no llama.cpp."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(SOURCE))
        yield importlib.import_module("glm_runtime_llamacpp._fitting")


@given(
    sizes=st.lists(st.integers(0, 50), min_size=1, max_size=60),
    around=st.lists(st.integers(0, 9), min_size=60, max_size=60),
    most=st.integers(0, 900),
    length=st.integers(1, 4),
)
def test_the_fewest_rounds_go(
    fitting: Any, sizes: list[int], around: list[int], most: int, length: int
) -> None:
    """Whatever a template writes around each message, and whatever its size."""
    starts = list(range(0, len(sizes), length))

    def count(rounds: int) -> int:
        return sum(size + more for size, more in list(zip(sizes, around, strict=False))[starts[rounds] :])

    expected = next((rounds for rounds in range(len(starts)) if count(rounds) <= most), len(starts) - 1)
    assert fitting.find_first_round(count, lambda: sizes, starts, most) == expected


def test_a_long_history_is_not_encoded_again_for_each_round(fitting: Any) -> None:
    """Of a thousand rounds, a handful of whole prompts."""
    asked: list[int] = []

    def count(rounds: int) -> int:
        asked.append(rounds)
        return (1000 - rounds) * 25

    assert fitting.find_first_round(count, lambda: [10, 11] * 1000, list(range(0, 2000, 2)), 2500) == 900
    assert len(set(asked)) <= 8
