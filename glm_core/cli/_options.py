"""Options and output that several commands share."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from ..chat_model import ChatModel
from ..config import DTYPES, HUBS, QUANTIZATIONS, Settings, load_settings
from ..errors import ConfigError
from ..plugins import PluginHost
from ..records import Option
from ..routing import open_model


def add_model_options(parser: argparse.ArgumentParser) -> None:
    """The options that choose a model, a device and a precision."""
    group = parser.add_argument_group("model")
    group.add_argument("--model", metavar="NAME_OR_PATH", help="directory, known name or hub id (demo)")
    group.add_argument("--revision", metavar="R", help="branch, tag or commit on the hub")
    group.add_argument("--device", metavar="D", help="auto, cpu, cuda, cuda:0,1, mps (auto)")
    group.add_argument("--dtype", metavar="T", help=f"{', '.join(DTYPES)} (auto)")
    group.add_argument("--quantize", metavar="Q", help=f"{', '.join(QUANTIZATIONS)} (none)")
    group.add_argument(
        "--adapter", metavar="[NAME=]DIR", action="append", default=[], help="load an adapter; repeatable"
    )
    group.add_argument("--hub", metavar="H", help=f"{', '.join(HUBS)} (huggingface)")
    group.add_argument("--offline", action="store_true", default=None, help="never touch the network")


def settings_of(arguments: argparse.Namespace) -> Settings:
    """The settings, with what the model options say on top."""
    names = ("model", "revision", "device", "dtype", "quantize", "hub", "offline")
    return load_settings({name: getattr(arguments, name) for name in names})


def parse_adapters(values: Iterable[str]) -> dict[str, Path]:
    """``NAME=DIR`` or ``DIR`` (named after its last part) to a mapping.

    Raises:
        ConfigError: a name is empty or given twice.
    """
    adapters: dict[str, Path] = {}
    for value in values:
        name, separator, directory = value.partition("=")
        path = Path(directory if separator else value).expanduser()
        name = name if separator else path.resolve().name
        if not name or not str(path):
            raise ConfigError(f"--adapter {value!r}: expected NAME=DIRECTORY or DIRECTORY")
        if name in adapters:
            raise ConfigError(f"--adapter: two adapters are called {name!r}; give one of them another NAME=")
        adapters[name] = path
    return adapters


def open_chosen_model(host: PluginHost, arguments: argparse.Namespace) -> ChatModel:
    """Open the model that the options choose; what ``auto`` chose goes to standard error."""
    settings = settings_of(arguments)
    if settings.model == "demo":
        notice("model: the bundled demo, a small stand-in; --model THUDM/chatglm-6b takes the real one")
    return open_model(host, settings, adapters=parse_adapters(arguments.adapter), notify=notice)


def notice(line: str) -> None:
    """One line to standard error, which leaves standard output to results."""
    print(f"glm: {line}", file=sys.stderr, flush=True)


def add_plugin_options(parser: argparse.ArgumentParser, title: str, options: Iterable[Option]) -> None:
    """Flags for the options that a plugin describes."""
    group = parser.add_argument_group(title)
    for option in options:
        flag = f"--{option.name.replace('_', '-')}"
        if option.type is bool:
            group.add_argument(
                flag,
                dest=option.name,
                action=argparse.BooleanOptionalAction,
                default=option.default,
                help=option.help,
            )
        else:
            group.add_argument(
                flag,
                dest=option.name,
                type=option.type,
                default=option.default,
                help=option.help,
                metavar="X",
            )


def print_json(value: Any) -> None:
    """Indented JSON on standard output, text not escaped."""
    print(json.dumps(value, ensure_ascii=False, indent=2, default=str))


def print_table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Aligned columns on standard output."""
    table = [tuple(headings), *(tuple(row) for row in rows)]
    widths = [max(len(row[column]) for row in table) for column in range(len(headings))]
    for row in table:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
