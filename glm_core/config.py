"""Settings, read once at the edge: defaults < file < environment < what the caller says.

This module and `glm_core.language` are the only places of the core that read the environment.
"""

from __future__ import annotations

import dataclasses
import math
import os
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import platformdirs

from ._not_set import NOT_SET, NotSet
from .errors import ConfigError
from .isolation import format_value
from .jobs import QuantizationScheme

ENVIRONMENT_PREFIX = "GLM_"
DTYPES = ("auto", "float32", "bfloat16", "float16")
HUBS = ("huggingface", "modelscope")
MAX_SLOTS = 1024  # as many sequences as no machine answers at once; more is a typing mistake
MAX_CONTEXT_LENGTH = 2**24  # sixteen times what the longest published model takes
MAX_KV_MEMORY = 2.0**20  # gigabytes, that is a petabyte: beyond it somebody wrote bytes
MAX_TEXT = 4096  # characters, as in the longest path of an operating system
MAX_FILE_BYTES = 2**20  # a settings file has a few lines; a device that never ends must not fill the memory
YES = ("1", "true", "yes", "on")
NO = ("0", "false", "no", "off")
MIN_KV_MEMORY = 1e-6  # gigabytes; less would leave no whole kilobyte for a conversation
_NUMBERS: Mapping[str, tuple[type[int] | type[float], str, float, float]] = {
    "slots": (int, "whole number", 1, MAX_SLOTS),
    "context_length": (int, "whole number", 1, MAX_CONTEXT_LENGTH),
    "kv_memory": (float, "number of gigabytes", MIN_KV_MEMORY, MAX_KV_MEMORY),
}


@dataclass(frozen=True)
class Settings:
    """Everything that a user can set for every command; see ``docs/configuration.md``.

    Choices among words have a word for "as you like", ``auto``; what has no such word is `NOT_SET`
    where nobody said.

    Attributes:
        model: directory, known name or hub id.
        runtime: ``auto``, or the name of a runtime or of its plugin.
        device: ``auto``, or a device name such as ``cpu``, ``cuda:0,1``, ``mps``.
        dtype: one of `DTYPES`.
        quantize: ``none``, or a scheme that the backend offers, such as ``int8``, ``int4``, ``int4-g128``.
        kernels: ``auto``, or kernels that the backend offers, such as ``triton``.
        revision: branch, tag or commit on the hub; `NOT_SET` = the newest.
        offline: never touch the network.
        verify: compare the hashes of all files before a model is loaded.
        hub: where ids are looked up, one of `HUBS`.
        slots: requests to answer at the same time; `NOT_SET` = as many as suit the device.
        context_length: tokens that one request may use; `NOT_SET` = what the model was made for.
        kv_memory: gigabytes that the KV cache may take; `NOT_SET` = what suits the device.
        plugins: names of the only plugins to load; `NOT_SET` = all.
        disable_plugins: names of plugins never to load.
    """

    model: str = "demo"
    runtime: str = "auto"
    device: str = "auto"
    dtype: str = "auto"
    quantize: str = "none"
    kernels: str = "auto"
    revision: str | NotSet = NOT_SET
    offline: bool = False
    verify: bool = False
    hub: str = "huggingface"
    slots: int | NotSet = NOT_SET
    context_length: int | NotSet = NOT_SET
    kv_memory: float | NotSet = NOT_SET
    plugins: tuple[str, ...] | NotSet = NOT_SET
    disable_plugins: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for name, choices in (("dtype", DTYPES), ("hub", HUBS)):
            if (word := getattr(self, name)) not in choices:
                there = ", ".join(choices)
                raise ConfigError(f"{name} {format_value(word)} is unknown; expected one of {there}")
        if self.quantize != "none":
            QuantizationScheme.parse(self.quantize)
        for name, (_, _, minimum, maximum) in _NUMBERS.items():
            number = getattr(self, name)
            if number is not NOT_SET and not minimum <= number <= maximum:
                bounds = f"from {minimum:g} to {maximum:g}"
                raise ConfigError(f"{name} must be 0 (automatic), or {bounds}, got {format_value(number)}")


def find_config_file(environ: Mapping[str, str] = os.environ) -> Path:
    """Return the settings file: ``GLM_CONFIG``, or ``config.toml`` in the user's configuration folder."""
    named = environ.get("GLM_CONFIG")
    return expand(named) if named else platformdirs.user_config_path("glm") / "config.toml"


def find_hub_cache(environ: Mapping[str, str] = os.environ) -> Path:
    """Return where Hugging Face's client keeps downloads; the same rule as the client's own."""
    caches = environ.get("XDG_CACHE_HOME") or "~/.cache"
    return expand(environ.get("HF_HOME") or f"{caches}/huggingface")


def is_switched_on(variable: str, environ: Mapping[str, str] = os.environ) -> bool:
    """Return whether a variable such as ``GLM_DEBUG`` or ``GLM_TRACE_HOOKS`` holds one of `YES`."""
    return environ.get(variable, "").lower() in YES


def is_first_process(environ: Mapping[str, str] = os.environ) -> bool:
    """Return whether this process reports, where a launcher has started several for one job."""
    return environ.get("RANK", "") in ("", "0")


def expand(path: str | os.PathLike[str]) -> Path:
    """Return a path with ``~`` taken as the home directory.

    Unlike `Path.expanduser` it leaves ``~nobody`` as it is, and so a machine on which the user has
    no home (a container with a foreign user id) meets no surprise.
    """
    return Path(os.path.expanduser(path))


def load_settings(
    overrides: Mapping[str, Any] | None = None, environ: Mapping[str, str] = os.environ
) -> Settings:
    """Merge all sources into one `Settings`.

    Args:
        overrides: what the caller or a flag says; `NOT_SET`, and ``None`` (argparse's word), say nothing.
        environ: ``GLM_MODEL``, ``GLM_DEVICE`` and so on, one for each setting. ``HF_HUB_OFFLINE``
            also switches the network off.

    Raises:
        ConfigError: a source holds an unknown name or a value that cannot be used.
    """
    values = _from_file(environ)
    if is_switched_on("HF_HUB_OFFLINE", environ):
        values["offline"] = True
    for field in dataclasses.fields(Settings):
        variable = ENVIRONMENT_PREFIX + field.name.upper()
        if environ.get(variable):
            values[field.name] = _parse(field.name, environ[variable], variable)
    for name, value in (overrides or {}).items():
        if value is not None and value is not NOT_SET:
            values[name] = _convert(name, value)
    return Settings(**values)


def _from_file(environ: Mapping[str, str]) -> dict[str, Any]:
    path = find_config_file(environ)
    try:
        with path.open("rb") as file:
            data = file.read(MAX_FILE_BYTES + 1)
        if len(data) > MAX_FILE_BYTES:
            raise ConfigError(f"the settings file {path} is longer than {MAX_FILE_BYTES:,} bytes")
        text = data.decode("utf-8-sig")  # editors on Windows put a mark in front
    except FileNotFoundError:
        if environ.get("GLM_CONFIG"):
            raise ConfigError(f"GLM_CONFIG names {path}, which does not exist") from None
        return {}
    except (OSError, ValueError) as error:
        raise ConfigError(f"the settings file {path} cannot be read: {error}") from error
    try:
        content = tomllib.loads(text)
    except (ValueError, RecursionError) as error:  # also numbers and nesting beyond Python's own limits
        raise ConfigError(f"the settings file {path} is no valid TOML: {error}") from error
    known = {field.name for field in dataclasses.fields(Settings)}
    for name in content:
        if name not in known:
            raise ConfigError(
                f"the settings file {path} has an unknown setting {format_value(name)}; "
                f"known are: {', '.join(sorted(known))}"
            )
    return {name: _parse(name, value, str(path)) for name, value in content.items()}


def _parse(name: str, value: Any, origin: str) -> Any:
    """Return the value of one setting as a file or variable gives it; refuse a wrong one with its origin."""
    try:
        parsed = _convert(name, value)
        Settings(**{name: parsed})
    except ConfigError as error:
        raise ConfigError(f"{origin}: {error}") from None
    return parsed


def _convert(name: str, value: Any) -> Any:
    if name in ("plugins", "disable_plugins"):
        parts = value.split(",") if isinstance(value, str) else value
        if isinstance(parts, (list, tuple)) and all(isinstance(part, str) for part in parts):
            return tuple(part.strip() for part in parts if part.strip())
        raise ConfigError(f"{name} must be a list of plugin names, got {format_value(value)}")
    if name in ("offline", "verify"):
        word = str(value).lower() if isinstance(value, (str, bool)) else ""
        if word in YES + NO:
            return word in YES
        raise ConfigError(f"{name} must be true or false, got {format_value(value)}")
    if name in _NUMBERS:
        kind, what, *_ = _NUMBERS[name]
        try:
            if isinstance(value, bool) or (kind is int and isinstance(value, float)):
                raise TypeError
            number = 0 if value == "auto" else kind(value)
            return number or NOT_SET  # 0 leaves it open too, since it would be of no use as a number
        except OverflowError:  # an integer beyond the range of float; `Settings` says the range
            return math.inf
        except (TypeError, ValueError):  # ValueError also for more digits than Python converts
            raise ConfigError(f"{name} must be a {what}, got {format_value(value)}") from None
    if name == "model" and isinstance(value, os.PathLike):
        value = os.fspath(value)
    if not isinstance(value, str):
        raise ConfigError(
            f"{name} must be {'text or a path' if name == 'model' else 'text'}, got {format_value(value)}"
        )
    if len(value) > MAX_TEXT:
        raise ConfigError(f"{name} must have at most {MAX_TEXT:,} characters, got {len(value):,}")
    return value
