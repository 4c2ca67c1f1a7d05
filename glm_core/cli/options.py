"""Options and output that several commands share."""

from __future__ import annotations

import argparse
import contextlib
import json
import unicodedata
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from .._not_set import NOT_SET
from ..chat_model import ChatModel
from ..config import DTYPES, HUBS, Settings, expand, load_settings
from ..device_map import read_device_map
from ..errors import ConfigError, PluginError
from ..isolation import format_value
from ..language import print_notice as print_notice
from ..plugins import PluginHost, Status
from ..records import Option
from ..routing import open_model

# setting: what stands for its value in the help (nothing for a bare flag), and what the help says
_SETTINGS: Mapping[str, tuple[str, str]] = {
    "model": ("NAME_OR_PATH", "directory, known name or hub id (demo)"),
    "revision": ("R", "branch, tag or commit on the hub"),
    "runtime": ("R", "auto, or a name that glm plugins shows (auto)"),
    "device": ("D", "auto, cpu, cuda, cuda:0,1, mps (auto)"),
    "dtype": ("T", f"{', '.join(DTYPES)} (auto)"),
    "quantize": ("Q", "none, int8, int4, int4-g128 (none)"),
    "kernels": ("K", "auto, or what the backend offers (auto)"),
    "slots": ("N", "requests answered at the same time (auto)"),
    "context_length": ("N", "tokens of one request, answer included (the model's)"),
    "kv_memory": ("GB", "memory of the KV cache (auto)"),
    "hub": ("H", f"{', '.join(HUBS)} (huggingface)"),
    "offline": ("", "never touch the network"),
    "verify": ("", "compare the hashes of all files before loading"),
}
_METAVARS = {str: "TEXT", int: "N", float: "X"}


def make_number_reader(kind: type) -> Callable[[str], Any]:
    """Return what reads an option's number, an ``int`` or a ``float``; other types read themselves."""

    def read(text: str) -> Any:
        with contextlib.suppress(ValueError):
            if abs(number := kind(text)) < 2**63:  # on more a library would fail, far from here
                return number
        what = "a whole number" if kind is int else "a number"
        raise argparse.ArgumentTypeError(f"expected {what}, got {format_value(text)}")

    return read if kind in (int, float) else kind


def make_command_parser(command: str, description: str, **more: Any) -> argparse.ArgumentParser:
    """Return a parser for one command; options are never abbreviated, so that a new one breaks no script."""
    return argparse.ArgumentParser(prog=f"glm {command}", description=description, allow_abbrev=False, **more)


def add_model_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that choose a model, a runtime, a device and a precision."""
    group = parser.add_argument_group("model")
    add_setting_options(group, *_SETTINGS)
    group.add_argument(
        "--device-map", metavar="JSON_OR_FILE", help="which part of the network goes on which device"
    )
    group.add_argument(
        "--adapter", metavar="[NAME=]DIR", action="append", default=[], help="load an adapter; repeatable"
    )


def add_setting_options(group: argparse._ActionsContainer, *names: str) -> None:
    """Add the options of these settings."""
    for name in names:
        flag, (metavar, text) = f"--{name.replace('_', '-')}", _SETTINGS[name]
        if metavar:  # text, also for numbers: `load_settings` knows "auto" and what each may be
            group.add_argument(flag, metavar=metavar, help=text)
        else:
            group.add_argument(flag, action="store_true", default=None, help=text)


def read_settings(arguments: argparse.Namespace) -> Settings:
    """Return the settings, with what the options of `add_setting_options` say on top."""
    return load_settings({name: getattr(arguments, name, None) for name in _SETTINGS})


def parse_adapters(values: Iterable[str]) -> dict[str, Path]:
    """Return a mapping of ``NAME=DIR``, or of ``DIR``, which is named after its last part.

    Raises:
        ConfigError: a name or directory is empty, or a name is given twice.
    """
    adapters: dict[str, Path] = {}
    for value in values:
        name, separator, directory = value.partition("=")
        path = expand(directory if separator else value)
        name = name if separator else path.resolve().name
        if not name or not (directory if separator else value):
            raise ConfigError(f"--adapter {value!r}: expected NAME=DIRECTORY or DIRECTORY")
        if name in adapters:
            raise ConfigError(f"--adapter: two adapters are called {name!r}; give one of them another NAME=")
        adapters[name] = path
    return adapters


def make_model_opener(host: PluginHost, arguments: argparse.Namespace) -> Callable[[], ChatModel]:
    """Check the model options now; the function that is returned opens the model.

    What ``auto`` chose goes to standard error.
    """
    settings, adapters = read_settings(arguments), parse_adapters(arguments.adapter)
    device_map = NOT_SET if arguments.device_map is None else read_device_map(arguments.device_map)

    def open_it() -> ChatModel:
        if settings.model == "demo" and arguments.model is None:
            print_notice(
                "model: the bundled demo, a small stand-in; --model THUDM/chatglm-6b takes the real one"
            )
        model = open_model(host, settings, adapters=adapters, device_map=device_map, notify=print_notice)
        print_failed_plugins(host)  # now, when the backends have been asked too
        return model

    return open_it


def print_failed_plugins(host: PluginHost) -> None:
    """Print one line each about installed plugins that are broken or of another API version."""
    reasons: dict[Status, str] = {"broken": "broken", "incompatible": "of another API version"}
    for status, reason in reasons.items():
        names = [report.name for report in host.reports if report.status == status]
        if names:
            print_notice(f"not used, because {reason}: {', '.join(names)}; glm plugins says why")


def add_plugin_options(parser: argparse.ArgumentParser, title: str, options: Iterable[Option]) -> None:
    """Add flags for the options that a plugin describes.

    Raises:
        PluginError: a flag is taken, by another option of the plugin or by the command's own.
    """
    group = parser.add_argument_group(title)
    for option in options:
        try:
            add_flag(group, option)
        except argparse.ArgumentError as error:
            raise PluginError(
                f"{title!r} describes an option {option.name!r} whose flag is taken ({error}); "
                "report this to its author"
            ) from error
        # Not in add_argument: Python 3.11 would add the default to the help of some, 3.13 of none.
        parser.set_defaults(**{option.name: option.default})


def add_flag(group: argparse._ActionsContainer, option: Option) -> None:
    """Add the flag of one option, which is ``None`` where it is not given."""
    flag = f"--{option.name.replace('_', '-')}"
    text = option.help.replace("%", "%%")
    if option.type is not bool:
        if option.default is not None:
            text += f" ({option.default})".replace("%", "%%")
        read, metavar = make_number_reader(option.type), _METAVARS[option.type]
        group.add_argument(flag, dest=option.name, type=read, help=text, metavar=metavar)
    elif option.name.startswith("no_"):  # --no-history needs no --no-no-history
        group.add_argument(flag, dest=option.name, action="store_true", help=text)
    else:
        group.add_argument(flag, dest=option.name, action=argparse.BooleanOptionalAction, help=text)


def print_json(value: Any) -> None:
    """Print indented JSON on standard output, text not escaped."""
    print(json.dumps(value, ensure_ascii=False, indent=2, default=str))


def print_table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print aligned columns on standard output."""
    table = [tuple(headings), *(tuple(row) for row in rows)]
    widths = [max(count_places(row[column]) for row in table) for column in range(len(headings))]
    for row in table:
        cells = (cell + " " * (width - count_places(cell)) for cell, width in zip(row, widths, strict=True))
        print("  ".join(cells).rstrip())


def count_places(text: str) -> int:
    """Return how many places of a terminal a text takes; a Chinese character takes two."""
    return sum(2 if unicodedata.east_asian_width(character) in "WF" else 1 for character in text)
