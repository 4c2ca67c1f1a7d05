"""The options of ``glm predict`` and what their text forms mean."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
from glm_ptuning._keywords import FOR_PREDICT, OF_PREDICT, TASKS
from glm_ptuning._predict_options import PREDICT_OPTIONS, parse_predict_settings
from glm_ptuning._settings import TrainingSettings
from glm_ptuning._train import parse_job_settings
from key_words import containing

from glm_core import ConfigError, Sampling

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


NAMES = [field.name for field in dataclasses.fields(TrainingSettings) if field.name != "idle"]


@pytest.mark.parametrize("name", NAMES)
def test_each_name_is_used_told_or_refused(name: str) -> None:
    """``--set`` of prediction takes nothing in silence that would have meant something in training."""
    default = getattr(TrainingSettings(), name)
    others = {"do_predict": "true", "metric_for_best_model": "loss", "lr_scheduler_kwargs": {}}
    value = others.get(name, default if default is not None else "8")
    given = {"test_file": "a", "sample": "true", name: "1" if name.endswith("num_beams") else value}
    if name in OF_PREDICT:
        with pytest.raises(ConfigError, match=containing(name, OF_PREDICT[name])):
            parse_predict_settings(given)
    elif name in TASKS and name != "do_predict":
        with pytest.raises(ConfigError, match=name):
            parse_predict_settings({**given, name: "true"})
    else:
        assert parse_predict_settings(given).job.idle == (() if name in FOR_PREDICT else (name,))


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"ptuning_checkpoint": "dir"}, ["ptuning_checkpoint", "--adapter"]),
        ({"model_name_or_path": "dir"}, ["model_name_or_path", "--model"]),
        ({"output_dir": "dir"}, ["output_dir", "--output-dir"]),
        ({"use_cpu": "true"}, ["use_cpu", "--device cpu"]),
        ({"do_train": "yes"}, ["do_train"]),
        ({"do_predict": "false"}, ["do_predict"]),
    ],
)
def test_what_would_be_another_job_is_refused(given: dict[str, str], words: list[str]) -> None:
    """The base would be scored in the place of an adapter, or nothing be trained."""
    with pytest.raises(ConfigError, match=containing(*words)):
        parse_predict_settings({"test_file": "a", **given})


@pytest.mark.parametrize(
    ("given", "refused"),
    [
        ({"do_predict": "true"}, ["do_predict", "glm predict"]),
        ({"predict_with_generate": "true"}, ["predict_with_generate", "glm predict"]),
        ({"do_train": "false"}, ["do_train"]),
        ({"use_cpu": "true"}, ["use_cpu", "--device cpu"]),
    ],
)
def test_training_refuses_what_it_does_not_do(given: dict[str, str], refused: list[str]) -> None:
    """The same rule for the other command."""
    with pytest.raises(ConfigError, match=containing(*refused)):
        parse_job_settings(given)


def test_training_tells_what_is_about_answers() -> None:
    """Files and beams of prediction have no effect there."""
    given = {"test_file": "a", "max_predict_samples": "3", "do_train": "true", "predict_with_generate": "no"}
    assert parse_job_settings(given).idle == ("max_predict_samples", "test_file")


def test_a_seed_without_sampling_is_told() -> None:
    """Greedy answers are the same with any seed."""
    assert parse_predict_settings({"test_file": "a", "seed": 3}).job.idle == ("seed",)
