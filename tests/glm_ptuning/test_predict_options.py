"""The options of ``glm predict`` and what their text forms mean."""

from __future__ import annotations

from pathlib import Path

import pytest
from glm_ptuning._predict_options import PREDICT_OPTIONS, parse_predict_settings

from glm_core import Sampling

DOCS = Path(__file__).parents[2] / "docs" / "ptuning.md"


def test_every_option_is_documented() -> None:
    """docs/ptuning.md names each flag."""
    text = DOCS.read_text("utf-8")
    assert PREDICT_OPTIONS
    for option in PREDICT_OPTIONS:
        assert f"`--{option.name.replace('_', '-')}" in text


def test_text_and_typed_values_mean_the_same() -> None:
    """``--set`` gives text, flags give types, and both give one setting."""
    typed = parse_predict_settings(
        {"test_file": "a", "max_source_length": 64, "max_target_length": 32, "sample": True, "seed": 3}
    )
    text = parse_predict_settings(
        {"test_file": "a", "max_source_length": "64", "max_target_length": "32", "sample": "yes", "seed": "3"}
    )
    assert typed == text
    assert typed.max_length == 97
    assert typed.sampling == Sampling(max_length=97, do_sample=True, top_p=0.7, temperature=0.95)


@pytest.mark.parametrize("beams", [None, 1, "1"])
def test_one_beam_is_no_beam_search(beams: object) -> None:
    """The original's num_beams=1 is taken."""
    assert parse_predict_settings({"test_file": "a", "num_beams": beams}).sampling.do_sample is False


def test_defaults_are_the_originals_but_greedy() -> None:
    """1024 and 128 tokens, no fixed seed, no retention."""
    settings = parse_predict_settings({"test_file": "~/a"})
    assert settings.max_length == 1153
    assert (settings.seed, settings.retention, settings.sampling.do_sample) == (None, False, False)
    assert settings.test_file == Path("~/a").expanduser()
    assert parse_predict_settings({"test_file": "a", "retention_file": "b"}).retention
