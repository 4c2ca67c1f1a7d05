"""Numbers that nobody can mean, in every setting and option: a sentence, and nothing is opened."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest

import glm_core
from glm_core import ConfigError, RequestError, Sampling, cli
from glm_core.cli.chat import _NUMBERS as CHAT_OPTIONS
from glm_core.config import Settings, load_settings
from glm_core.isolation import format_value
from glm_core.plugins import get_default_host
from glm_core.records import FrontendInfo, Option, TrainerInfo

DIGITS = "1" + "0" * 400
# What people and programs send: more than a float holds, than Python writes, and what is no number at all.
ABSURD = {
    "400 digits": DIGITS,
    "5000 digits": "9" * 5000,
    "negative": f"-{DIGITS}",
    "float": "1e400",
    "nan": "nan",
    "infinite": "-inf",
    "power": "10^400",
    "hexadecimal": "0x10",
    "text": "many" * 1000,
}
NUMERIC_SETTINGS = ("slots", "context_length", "kv_memory")
# Where a setting has a number, its type is one; so a new one is found here.
assert set(NUMERIC_SETTINGS) == {
    field.name
    for field in dataclasses.fields(Settings)
    if "int" in str(field.type) or "float" in str(field.type)
}
LONGEST = 400


@pytest.fixture(autouse=True)
def nobody(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No settings of whoever runs the tests, and English sentences."""
    (tmp_path / "config.toml").write_text("")
    monkeypatch.setenv("GLM_CONFIG", str(tmp_path / "config.toml"))
    monkeypatch.setenv("GLM_LANG", "en")


def refused_settings(*, overrides: object = None, **environ: str) -> str:
    """What is said of settings that cannot be."""
    with pytest.raises(ConfigError) as refused:
        load_settings(overrides, environ)  # type: ignore[arg-type]
    return str(refused.value)


@pytest.mark.parametrize("value", ABSURD.values(), ids=ABSURD)
@pytest.mark.parametrize("name", NUMERIC_SETTINGS)
def test_settings_name_where_an_absurd_number_stands(name: str, value: str, tmp_path: Path) -> None:
    """From a variable, a file and a caller, as text and as a number: one short line."""
    file = tmp_path / "settings.toml"
    said = [refused_settings(overrides={name: value}, GLM_CONFIG=str(tmp_path / "config.toml"))]
    said.append(refused_settings(GLM_CONFIG=str(tmp_path / "config.toml"), **{f"GLM_{name.upper()}": value}))
    assert f"GLM_{name.upper()}" in said[-1]
    written = value if value.lstrip("-").isdigit() or value in ("1e400", "nan", "-inf") else json.dumps(value)
    file.write_text(f"{name} = {written}\n")
    said.append(refused_settings(GLM_CONFIG=str(file)))
    assert str(file) in said[-1]
    for sentence in said:
        assert "\n" not in sentence
        assert len(sentence) < LONGEST + len(str(file))


NUMBERS = (10**400, -(10**400), 10**5000, float("inf"), float("nan"))


@pytest.mark.parametrize("number", [*NUMBERS, 1e-12, True, 2.5e300], ids=format_value)
@pytest.mark.parametrize("name", NUMERIC_SETTINGS)
def test_callers_numbers_are_checked(name: str, number: float) -> None:
    """``glm_core.load`` and `Settings` refuse them as well, before anything is looked for."""
    if isinstance(number, float) and 0 < number < 1 and name != "kv_memory":
        number = 0.5
    with pytest.raises(ConfigError, match=name):
        glm_core.load("/does/not/exist", **{name: number})  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=name) as refused:
        Settings(**{name: number})  # type: ignore[arg-type]
    assert len(str(refused.value)) < LONGEST


@pytest.mark.parametrize("number", NUMBERS, ids=format_value)
@pytest.mark.parametrize("name", [field.name for field in dataclasses.fields(Sampling)])
def test_sampling_takes_no_number_that_nothing_can_compute_with(name: str, number: float) -> None:
    """A field is refused in one short line, or takes a number so large as the limit that it is."""
    if name in ("max_new_tokens", "max_length", "top_k") and isinstance(number, int) and number > 0:
        assert getattr(Sampling(**{name: number}), name) == number  # type: ignore[arg-type]
        return
    with pytest.raises(RequestError, match=name) as refused:
        Sampling(**{name: number})  # type: ignore[arg-type]
    assert len(str(refused.value)) < LONGEST


def list_options() -> list[tuple[str, Option]]:
    """Every numeric option of a command, with the command that takes it."""
    found = [(f"chat hello --model {{nowhere}} --{option.name}", option) for option in CHAT_OPTIONS]
    for info in get_default_host().describe("describe_frontend", FrontendInfo).values():
        found += [(f"run {info.name} --model {{nowhere}} --{option.name}", option) for option in info.options]
    for trainer in get_default_host().describe("describe_trainer", TrainerInfo).values():
        front = f"train {trainer.name} --output-dir {{nowhere}}/out --model {{nowhere}}"
        found += [(f"{front} --{option.name}", option) for option in trainer.options]
    whole = Option("any", "", int)
    found += [(f"bench --model {{nowhere}} --{name}", whole) for name in ("new-tokens", "repeat", "warmup")]
    found += [
        (f"bench --model {{nowhere}} --{name}", whole) for name in ("batch", "prompt-tokens", *SETTING_FLAGS)
    ]
    found += [("quantize {nowhere} {nowhere}/out --bits", whole)]
    found += [("quantize {nowhere} {nowhere}/out --bits 4 --group-size", whole)]
    # Not the flags alone: the words before them have no underscores.
    return [(line.replace("_", "-"), option) for line, option in found if option.type in (int, float)]


SETTING_FLAGS = tuple(name.replace("_", "-") for name in NUMERIC_SETTINGS)
OPTIONS = list_options()


def test_options_are_found() -> None:
    """The list is of every frontend, trainer and command; it would be empty if plugins were not asked."""
    assert len(OPTIONS) > 35
    assert {line.split()[0] for line, _ in OPTIONS} == {"chat", "run", "train", "bench", "quantize"}


@pytest.mark.parametrize(("line", "option"), OPTIONS, ids=[line for line, _ in OPTIONS])
def test_options_refuse_absurd_numbers(
    line: str, option: Option, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each is refused before a model is looked for, or is so large a limit that it means none."""
    nowhere = str(tmp_path / "nowhere")
    for value in (*ABSURD.values(), str(2**62), "1e300", "-1", "1e-300"):
        *words, flag = line.format(nowhere=nowhere).split()
        status = cli.main([*words, f"{flag}={value}"])
        said = capsys.readouterr().err
        assert status == 2, (value[:20], said)
        assert "Traceback" not in said
        assert "report this" not in said
        if value in ABSURD.values():
            sentence = said.strip().splitlines()[-1]
            assert flag.removeprefix("--").replace("-", "_") in sentence.replace("-", "_")
            assert len(sentence) < LONGEST
