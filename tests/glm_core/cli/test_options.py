"""Tests of the options and the output that several commands share."""

from __future__ import annotations

import argparse
import re
from pathlib import Path

import pytest
from key_words import containing

from glm_core import NOT_SET, ConfigError, PluginError
from glm_core.cli.options import (
    add_model_options,
    add_plugin_options,
    make_command_parser,
    parse_adapters,
    print_table,
    read_settings,
)
from glm_core.config import Settings
from glm_core.records import Option

OPTIONS = (
    Option("host", "address", default="127.0.0.1"),
    Option("server_port", "port", type=int, default=8000),
    Option("scale", "100% is full", type=float),
    Option("share", "public link", type=bool, default=False),
    Option("browser", "open one", type=bool, default=True),
    Option("no_history", "keep none", type=bool, default=False),
)


def parser_of(*options: Option) -> argparse.ArgumentParser:
    """A parser with the model options and these."""
    parser = make_command_parser("run web", "A frontend.")
    add_model_options(parser)
    add_plugin_options(parser, "web", options)
    return parser


def values(*arguments: str) -> dict[str, object]:
    """What the flags give for `OPTIONS`."""
    parsed = vars(parser_of(*OPTIONS).parse_args(arguments))
    return {option.name: parsed[option.name] for option in OPTIONS}


DEFAULTS = {option.name: option.default for option in OPTIONS}


@pytest.mark.parametrize(
    ("arguments", "changed"),
    [
        ([], {}),
        (["--host", "::1"], {"host": "::1"}),
        (["--server-port", "80"], {"server_port": 80}),
        (["--scale", "1e-2"], {"scale": 0.01}),
        (["--share"], {"share": True}),
        (["--no-share"], {"share": False}),
        (["--no-browser"], {"browser": False}),
        (["--no-history"], {"no_history": True}),
    ],
)
def test_described_options_become_flags(arguments: list[str], changed: dict[str, object]) -> None:
    """Underscores become dashes, types are applied, and a bool can be switched both ways."""
    assert values(*arguments) == {**DEFAULTS, **changed}


def test_help_of_described_options_shows_defaults_and_percent_signs() -> None:
    """A per cent sign is text; a default that says something is shown; ``no_`` is not negated again."""
    text = parser_of(*OPTIONS).format_help()
    assert re.search(r"--host TEXT +address \(127\.0\.0\.1\)", text)
    assert re.search(r"--server-port N +port \(8000\)", text)
    assert re.search(r"--scale X +100% is full\n", text)
    assert re.search(r"--share, --no-share\n? +public link\n", text)
    assert re.search(r"--no-history +keep none", text)
    assert "--no-no-history" not in text


@pytest.mark.parametrize("name", ["model", "device", "help", "port"])
def test_option_whose_flag_is_taken_is_the_plugins_fault(name: str) -> None:
    """By one of core's options or by another of its own; the author is told which."""
    with pytest.raises(PluginError, match=containing("'web'", f"'{name}'", "taken")):
        parser_of(Option("port", ""), Option(name, ""))


def test_model_options_that_are_left_out_say_nothing() -> None:
    """The parser has no defaults of its own; those are in `Settings`."""
    assert read_settings(parser_of().parse_args([])) == Settings()


def test_model_options_reach_the_settings() -> None:
    """Each option is a setting."""
    given = ["--model", "m", "--revision", "r", "--device", "cuda:0,1", "--dtype", "float16"]
    given += ["--quantize", "int4", "--hub", "modelscope", "--offline"]
    assert read_settings(parser_of().parse_args(given)) == Settings(
        model="m",
        revision="r",
        device="cuda:0,1",
        dtype="float16",
        quantize="int4",
        hub="modelscope",
        offline=True,
    )


@pytest.mark.parametrize("flag", ["--slots", "--context-length", "--kv-memory"])
@pytest.mark.parametrize("word", ["auto", "0"])
def test_numbers_may_be_left_open_on_the_command_line_too(
    flag: str, word: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """``auto`` takes back what the environment says, as the documentation promises for every place."""
    name = flag.removeprefix("--").replace("-", "_")
    monkeypatch.setenv(f"GLM_{name.upper()}", "3")
    assert getattr(read_settings(parser_of().parse_args([])), name) == 3
    assert getattr(read_settings(parser_of().parse_args([flag, word])), name) is NOT_SET


ABSURD = [
    "x",
    "",
    "-1",
    "1.5e",
    "nan",
    "inf",
    "1e999",
    "9" * 400,
    "9" * 5000,
    "-" + "9" * 5000,
    "\x1b[2J",
    "\udcff",
]


@pytest.mark.parametrize("flag", ["--slots", "--context-length", "--kv-memory", "--server-port", "--scale"])
@pytest.mark.parametrize("value", ABSURD, ids=lambda value: repr(value[:9]))
def test_absurd_numbers_on_the_command_line_are_one_line(
    flag: str, value: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Refused in one printable line that no long value floods; a plugin's own range is the plugin's."""
    parsed: argparse.Namespace | None = None
    status, message = 0, ""
    try:
        parsed = parser_of(*OPTIONS).parse_args([f"{flag}={value}"])
        read_settings(parsed)
    except ConfigError as error:
        status, message = 2, str(error)
    except SystemExit as stop:
        status, message = int(stop.code or 0), capsys.readouterr().err.splitlines()[-1]
    is_ours = flag in ("--slots", "--context-length", "--kv-memory")
    assert status == 2 or (parsed is not None and not is_ours)
    assert len(message) < 600
    assert message.isprintable()


def test_adapters_are_named_or_take_their_directorys_name(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """``NAME=DIR`` or ``DIR``; a trailing slash and ``.`` are understood, and ``~`` after the name."""
    monkeypatch.setenv("HOME", "/home/me")
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    assert parse_adapters(["a=~/x", "/adapters/b/", "."]) == {
        "a": Path("/home/me/x"),
        "b": Path("/adapters/b"),
        "here": Path("."),
    }


@pytest.mark.parametrize("value", ["", "=dir", "name=", "/"])
def test_adapter_without_name_or_directory_is_refused(value: str) -> None:
    """The message shows both spellings."""
    message = f"--adapter {value!r}: expected NAME=DIRECTORY or DIRECTORY"
    with pytest.raises(ConfigError, match=f"^{re.escape(message)}$"):
        parse_adapters([value])


def test_two_adapters_of_one_name_are_refused() -> None:
    """Two directories that end alike need a name each."""
    with pytest.raises(ConfigError, match=containing("two adapters", "'b'", "NAME=")):
        parse_adapters(["/x/b", "/y/b"])


def test_table_is_aligned_also_in_chinese(capsys: pytest.CaptureFixture[str]) -> None:
    """A Chinese character takes two places, and no line ends with blanks."""
    print_table(("name", "what"), [("你好", "x"), ("abcdef", "")])
    assert capsys.readouterr().out == "name    what\n你好    x\nabcdef\n"
