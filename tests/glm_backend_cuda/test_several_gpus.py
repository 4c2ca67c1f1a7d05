"""``load_model_on_gpus``: which cards are used, and what is said where there are none."""

from __future__ import annotations

from typing import Any

import pytest
from glm_backend_cuda import _several_gpus
from glm_backend_cuda._devices import make_absent_device
from glm_backend_cuda._several_gpus import choose_gpus
from key_words import containing

import glm_core.compat as ChatGLM6Bpkg
from glm_core import ConfigError, DeviceError
from glm_core.records import DeviceInfo

CARDS = tuple(DeviceInfo(f"cuda:{index}", "cuda", "a card") for index in range(3))


@pytest.mark.parametrize(
    ("num_gpus", "has_map", "names"),
    [
        (2, False, ("cuda:0", "cuda:1")),
        (3, False, ("cuda:0", "cuda:1", "cuda:2")),
        (1, False, ("cuda:0",)),
        (0, False, ("cuda:0",)),
        (2, True, ("cuda:0", "cuda:1", "cuda:2")),
    ],
)
def test_cards_that_are_used(num_gpus: int, has_map: bool, names: tuple[str, ...]) -> None:
    """The first so many cards; fewer than two is one card; a map may name any."""
    assert choose_gpus(CARDS, num_gpus, has_map) == names


def test_too_few_cards() -> None:
    """More cards than there are is one sentence with both numbers."""
    with pytest.raises(
        DeviceError, match=containing("num_gpus=4", "3 (cuda:0, cuda:1, cuda:2)", "num_gpus=3")
    ):
        choose_gpus(CARDS, 4, has_map=False)


@pytest.mark.parametrize("wrong", [-1, True, "2"])
def test_numbers_that_are_none(wrong: object) -> None:
    """What is no number of cards is refused."""
    with pytest.raises(ConfigError, match="num_gpus must be a whole number"):
        choose_gpus(CARDS, wrong, has_map=False)  # type: ignore[arg-type]


@pytest.mark.parametrize("keywords", [{}, {"num_gpus": 2}, {"device_map": {"": 0}}])
def test_without_a_card_one_sentence_says_what_is_missing(
    monkeypatch: pytest.MonkeyPatch, keywords: dict[str, Any]
) -> None:
    """The original's call, found by its entry point, says what to install before it looks at the model."""
    monkeypatch.setattr(
        _several_gpus, "describe", lambda: (make_absent_device("no NVIDIA driver is installed"),)
    )
    with pytest.raises(DeviceError, match=containing("load_model_on_gpus", "no NVIDIA driver is installed")):
        ChatGLM6Bpkg.load_model_on_gpus("THUDM/chatglm-6b", **keywords)
