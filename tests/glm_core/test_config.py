"""Tests of the settings and of the order in which their sources count."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from key_words import containing

from glm_core import NOT_SET, ConfigError
from glm_core.config import Settings, expand, find_config_file, find_hub_cache, is_switched_on, load_settings

OTHER_VALUES = {
    "model": "chatglm-6b",
    "runtime": "torch",
    "device": "cuda:1",
    "dtype": "float16",
    "quantize": "int4",
    "revision": "main",
    "offline": True,
    "verify": True,
    "hub": "modelscope",
    "slots": 8,
    "context_length": 4096,
    "kv_memory": 1.5,
    "kernels": "torch",
    "plugins": ("a", "b"),
    "disable_plugins": ("c",),
}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A settings file, not written yet."""
    return tmp_path / "config.toml"


@pytest.fixture
def environ(file: Path) -> dict[str, str]:
    """An environment in which only the settings file is named, and it is empty."""
    file.write_text("")
    return {"GLM_CONFIG": str(file)}


def _as_text(value: object) -> str:
    return ",".join(value) if isinstance(value, tuple) else str(value)


def _as_toml(name: str, value: object) -> str:
    return "" if value is NOT_SET else f"{name} = {json.dumps(value)}"  # the same notation for these types


def test_every_setting_is_under_test() -> None:
    """The values used below differ from the defaults, one for each setting."""
    defaults = dataclasses.asdict(Settings())
    assert OTHER_VALUES.keys() == defaults.keys()
    assert all(OTHER_VALUES[name] != value for name, value in defaults.items())


def test_nothing_said_gives_the_defaults(environ: dict[str, str]) -> None:
    """An empty file, no variables and no arguments leave every default as it is."""
    assert load_settings(environ=environ) == Settings()
    assert Settings().model == "demo"


@pytest.mark.parametrize("name", OTHER_VALUES)
def test_file_beats_default(name: str, environ: dict[str, str], file: Path) -> None:
    """Each setting can be made in the file."""
    file.write_text(_as_toml(name, OTHER_VALUES[name]))
    assert getattr(load_settings(environ=environ), name) == OTHER_VALUES[name]


@pytest.mark.parametrize("name", OTHER_VALUES)
def test_environment_beats_file(name: str, environ: dict[str, str], file: Path) -> None:
    """Each setting has its variable, and a variable counts more than the file."""
    file.write_text(_as_toml(name, getattr(Settings(), name)))
    environ[f"GLM_{name.upper()}"] = _as_text(OTHER_VALUES[name])
    assert getattr(load_settings(environ=environ), name) == OTHER_VALUES[name]


def test_argument_beats_environment(environ: dict[str, str]) -> None:
    """What the caller says counts most; ``None`` says nothing, ``False`` does."""
    environ |= {"GLM_DEVICE": "cuda", "GLM_DTYPE": "float16", "GLM_OFFLINE": "1"}
    settings = load_settings({"device": "cpu", "dtype": None, "offline": False}, environ)
    assert (settings.device, settings.dtype, settings.offline) == ("cpu", "float16", False)


@pytest.mark.parametrize("name", ["slots", "context_length", "kv_memory"])
def test_numbers_may_be_left_open_in_words(name: str, environ: dict[str, str], file: Path) -> None:
    """``auto`` and 0 leave a number open again that an earlier source has said."""
    file.write_text(f"{name} = 7")
    for word in ("auto", "0"):
        settings = load_settings(environ={**environ, f"GLM_{name.upper()}": word})
        assert getattr(settings, name) is NOT_SET
    assert getattr(load_settings({name: 0}, environ), name) is NOT_SET
    assert getattr(load_settings({name: NOT_SET}, environ), name) == 7


def test_empty_variable_says_nothing(environ: dict[str, str], file: Path) -> None:
    """``GLM_DEVICE=`` is how a shell unsets a variable for one command."""
    file.write_text('device = "mps"')
    assert load_settings(environ={**environ, "GLM_DEVICE": ""}).device == "mps"


@pytest.mark.parametrize(
    ("value", "offline"), [("1", True), ("TRUE", True), ("on", True), ("0", False), ("", False)]
)
def test_hub_offline_variable_switches_the_network_off(
    value: str, offline: bool, environ: dict[str, str]
) -> None:
    """``HF_HUB_OFFLINE`` means to glm what it means to the hub's own client."""
    assert load_settings(environ={**environ, "HF_HUB_OFFLINE": value}).offline is offline


def test_own_variable_beats_the_hubs(environ: dict[str, str]) -> None:
    """``GLM_OFFLINE=0`` allows the network although ``HF_HUB_OFFLINE`` forbids it."""
    assert not load_settings(environ={**environ, "HF_HUB_OFFLINE": "1", "GLM_OFFLINE": "0"}).offline


@pytest.mark.parametrize(
    ("variable", "value", "message"),
    [
        ("GLM_DTYPE", "half", "dtype 'half' is unknown; expected one of auto, float32, bfloat16, float16"),
        (
            "GLM_QUANTIZE",
            "4",
            "quantize '4' is unknown; expected none, int8, int4, or int4-g128 and the like",
        ),
        ("GLM_SLOTS", "2.5", "slots must be a whole number, got '2.5'"),
        ("GLM_SLOTS", "-1", "slots must be 0 (automatic), or from 1 to 1024, got -1"),
        ("GLM_CONTEXT_LENGTH", "long", "context_length must be a whole number, got 'long'"),
        ("GLM_KV_MEMORY", "2 GB", "kv_memory must be a number of gigabytes, got '2 GB'"),
        ("GLM_HUB", "hf", "hub 'hf' is unknown; expected one of huggingface, modelscope"),
        ("GLM_OFFLINE", "maybe", "offline must be true or false, got 'maybe'"),
        ("GLM_KV_MEMORY", "inf", "kv_memory must be 0 (automatic), or from 1e-06 to 1.04858e+06, got inf"),
        ("GLM_KV_MEMORY", "nan", "kv_memory must be 0 (automatic), or from 1e-06 to 1.04858e+06, got nan"),
    ],
)
def test_bad_variable_is_named(variable: str, value: str, message: str, environ: dict[str, str]) -> None:
    """The message begins with the variable, so that the user knows where to look."""
    with pytest.raises(ConfigError, match=f"^{re.escape(f'{variable}: {message}')}$"):
        load_settings(environ={**environ, variable: value})


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('dtype = "half"', "dtype 'half' is unknown; expected one of"),
        ("device = 0", "device must be text, got 0"),
        ("plugins = [1]", "plugins must be a list of plugin names, got [1]"),
        ("plugins = 1", "plugins must be a list of plugin names, got 1"),
        ("offline = 1", "offline must be true or false, got 1"),
        ("kv_memory = true", "kv_memory must be a number of gigabytes, got True"),
        ("kv_memory = [1]", "kv_memory must be a number of gigabytes, got [1]"),
    ],
)
def test_bad_value_in_the_file_is_named_with_the_file(
    content: str, message: str, environ: dict[str, str], file: Path
) -> None:
    """The message begins with the file's path."""
    file.write_text(content)
    with pytest.raises(ConfigError, match=re.escape(f"{file}: {message}")):
        load_settings(environ=environ)


def test_bad_value_in_the_file_is_refused_although_a_variable_replaces_it(
    environ: dict[str, str], file: Path
) -> None:
    """A mistake in the file does not hide until the variable is gone."""
    file.write_text('dtype = "half"')
    with pytest.raises(ConfigError, match="dtype 'half' is unknown"):
        load_settings(environ={**environ, "GLM_DTYPE": "float16"})


ABSURD_NUMBERS = [
    "-1",
    "nan",
    "-inf",
    "1e999",
    "9" * 400,
    "-" + "9" * 400,
    "9" * 5000,
    "1" + "0" * 100_000,
    "\x00",
]
ABSURD_VALUES = [*ABSURD_NUMBERS, "x" * 100_000, "\x1b[2J", "\udcff", "a\nb"]


@pytest.mark.parametrize("name", sorted(OTHER_VALUES))
@pytest.mark.parametrize("value", ABSURD_VALUES, ids=lambda value: repr(value[:9]))
def test_absurd_value_of_any_setting_is_taken_or_refused_in_one_line(
    name: str, value: str, environ: dict[str, str], file: Path
) -> None:
    """From the environment, the file and Python alike: never another error, never a flood."""
    sources: list[Callable[[], Settings]] = [
        lambda: load_settings(environ={**environ, f"GLM_{name.upper()}": value}),
        lambda: load_settings({name: value}, environ),
    ]
    if value.isprintable() and value.lstrip("-").isdigit():
        file.write_text(f"{name} = {value}")
        sources.append(lambda: load_settings(environ=environ))
        if len(value) < 4300:
            sources.append(lambda: load_settings({name: int(value)}, environ))
    for source in sources:
        settings, message = None, ""
        try:
            settings = source()
        except ConfigError as error:
            message = str(error)
        assert len(message) < 700
        assert message.isprintable()
        if settings is not None:  # texts are looked at where they are used
            assert isinstance(getattr(settings, name), (str, tuple))


def test_number_beyond_all_that_python_prints_is_refused(environ: dict[str, str]) -> None:
    """An integer of 5,000 digits cannot even be shown."""
    for name in ("slots", "context_length", "kv_memory"):
        for number in (10**5000, -(10**5000)):
            with pytest.raises(ConfigError, match=f"^{name} must be 0"):
                load_settings({name: number}, environ)


@pytest.mark.parametrize(
    "content",
    [b"a = " + b"9" * 5000, b"a = " + b"[" * 100_000, b"\x00", b"\xff", b"a" * 3_000_000, b"[a" * 1000],
    ids=lambda content: repr(content[:8]),
)
def test_settings_file_of_any_content_is_refused_in_one_line(
    content: bytes, environ: dict[str, str], file: Path
) -> None:
    """Numbers and nesting beyond Python's limits, files that are no settings at all."""
    file.write_bytes(content)
    with pytest.raises(ConfigError, match=re.escape(str(file))) as caught:
        load_settings(environ=environ)
    assert len(str(caught.value)) < 700


@pytest.mark.skipif(not Path("/dev/zero").exists(), reason="no /dev/zero here")
def test_settings_file_that_never_ends_is_refused() -> None:
    """A device in the file's place does not fill the memory."""
    with pytest.raises(ConfigError, match="longer than"):
        load_settings(environ={"GLM_CONFIG": "/dev/zero"})


def test_unknown_setting_is_refused_with_the_known_ones(environ: dict[str, str], file: Path) -> None:
    """A misspelt setting would otherwise have no effect and no message."""
    file.write_text('devcie = "cpu"')
    with pytest.raises(ConfigError, match=containing("'devcie'", "context_length", "device")):
        load_settings(environ=environ)


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"device = ", "is no valid TOML: "), (b'device = "\xff"', "cannot be read: .*utf-8")],
)
def test_unreadable_file_is_a_config_error(
    content: bytes, message: str, environ: dict[str, str], file: Path
) -> None:
    """Broken TOML and text that is not UTF-8 are refused with the file's name."""
    file.write_bytes(content)
    with pytest.raises(ConfigError, match=f"the settings file {re.escape(str(file))} {message}"):
        load_settings(environ=environ)


def test_folder_in_place_of_the_file_is_a_config_error(tmp_path: Path) -> None:
    """What exists and cannot be read is never passed over."""
    with pytest.raises(ConfigError, match="cannot be read"):
        load_settings(environ={"GLM_CONFIG": str(tmp_path)})


def test_byte_order_mark_is_no_error(environ: dict[str, str], file: Path) -> None:
    """Editors on Windows put a mark in front of UTF-8 text."""
    file.write_bytes(b'\xef\xbb\xbfdevice = "cpu"')
    assert load_settings(environ=environ).device == "cpu"


def test_named_file_must_exist(file: Path) -> None:
    """``GLM_CONFIG`` with a typing mistake is no reason to run with other settings."""
    with pytest.raises(ConfigError, match=containing("GLM_CONFIG", str(file), "does not exist")):
        load_settings(environ={"GLM_CONFIG": str(file)})


def test_default_file_may_be_missing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Nobody has to write a settings file."""
    monkeypatch.setattr("platformdirs.user_config_path", lambda name: tmp_path / name)
    assert find_config_file({}) == tmp_path / "glm" / "config.toml"
    assert load_settings(environ={}) == Settings()


@pytest.mark.parametrize(("value", "names"), [("a, b,,c ", ("a", "b", "c")), ("a", ("a",)), (",", ())])
def test_lists_in_variables_are_separated_by_commas(
    value: str, names: tuple[str, ...], environ: dict[str, str]
) -> None:
    """Blanks and empty parts do not count; a lone comma is the empty list."""
    assert load_settings(environ={**environ, "GLM_PLUGINS": value}).plugins == names


def test_tilde_is_the_home_directory(monkeypatch: pytest.MonkeyPatch) -> None:
    """``~`` works in paths that no shell has expanded; an unknown user's home stays as written."""
    monkeypatch.setenv("HOME", "/home/me")
    assert expand("~/models") == Path("/home/me/models")
    assert expand("~nobody-here/models") == Path("~nobody-here/models")
    assert find_config_file({"GLM_CONFIG": "~/glm.toml"}) == Path("/home/me/glm.toml")


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({}, "/home/me/.cache/huggingface"),
        ({"XDG_CACHE_HOME": "/cache"}, "/cache/huggingface"),
        ({"XDG_CACHE_HOME": "/cache", "HF_HOME": "/hf"}, "/hf"),
        ({"HF_HOME": "~/hf"}, "/home/me/hf"),
    ],
)
def test_hub_cache_follows_the_clients_rule(
    environ: dict[str, str], expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """HF_HOME, else below XDG_CACHE_HOME, else below ~/.cache."""
    monkeypatch.setenv("HOME", "/home/me")
    assert find_hub_cache(environ) == Path(expected)


@pytest.mark.parametrize(("value", "wanted"), [("1", True), ("yes", True), ("0", False), ("", False)])
def test_debug_is_asked_for_by_its_variable(value: str, wanted: bool) -> None:
    """``GLM_DEBUG=1`` asks for tracebacks."""
    assert is_switched_on("GLM_DEBUG", {"GLM_DEBUG": value}) is wanted


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("slots", "x", "slots must be a whole number, got 'x'"),
        ("slots", True, "slots must be a whole number, got True"),
        ("quantize", 4, "quantize must be text, got 4"),
        ("dtype", 3, "dtype must be text, got 3"),
    ],
)
def test_value_of_another_type_is_refused_from_python_too(
    name: str, value: object, message: str, environ: dict[str, str]
) -> None:
    """In one sentence, not as a plugin's fault further in."""
    with pytest.raises(ConfigError, match=f"^{re.escape(message)}$"):
        load_settings({name: value}, environ)


@pytest.mark.parametrize(
    "settings",
    [Settings(), Settings(plugins=("a",), disable_plugins=("b", "c"), slots=2, kv_memory=1.5, offline=True)],
)
def test_settings_are_overrides_of_others(settings: Settings) -> None:
    """Every value that a `Settings` holds may be said again, as for a second model with the same wishes."""
    assert load_settings(vars(settings), {}) == settings
