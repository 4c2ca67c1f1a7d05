"""What ``glm train`` and ``glm predict`` share: the trainers, and options beyond those that they describe."""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from glm_core.config import expand
from glm_core.conflicts import rank_claimants
from glm_core.errors import ConfigError
from glm_core.plugins import PluginHost
from glm_core.records import Option, TrainerInfo


def find_trainers(host: PluginHost, hook: str) -> dict[str, tuple[str, TrainerInfo]]:
    """Return the trainers that answer a hook, by name: the plugin that has the name, and its description."""
    described = host.describe("describe_trainer", TrainerInfo)
    able = [plugin for plugin in sorted(described) if plugin in host.list_answering(hook)]
    keepers = rank_claimants(host, "trainer", [(described[plugin].name, plugin) for plugin in able])
    return {name: (plugins[0], described[plugins[0]]) for name, plugins in keepers.items()}


def add_set_option(parser: argparse.ArgumentParser) -> None:
    """Add ``--set NAME=VALUE``, for options that have no flag of their own."""
    parser.add_argument(
        "--set",
        metavar="NAME=VALUE",
        action="append",
        default=[],
        help="any further option of the trainer; repeatable",
    )


def read_output_directory(text: str) -> Path:
    """Return the directory of ``--output-dir``, which may not exist yet; refused before a model is opened.

    Raises:
        ConfigError: it is empty, a file, or a link that leads nowhere.
    """
    directory = expand(text)
    if not text.strip():  # of a shell variable that is not set; the folder one stands in is named "."
        raise ConfigError("--output-dir is empty; name a directory")
    if "\0" in text:
        raise ConfigError(f"--output-dir {text!r} holds a NUL; choose another directory")
    try:
        if directory.is_dir() or not os.path.lexists(directory):
            return directory
        if directory.is_symlink():
            raise ConfigError(
                f"--output-dir {directory} is a link to {os.readlink(directory)}, which is no directory; "
                "pass the place that it leads to, or delete the link"
            )
    except OSError as error:
        raise ConfigError(
            f"--output-dir {str(directory)!r} cannot be used: {error}; choose another directory"
        ) from error
    raise ConfigError(f"--output-dir {directory} is a file; choose a directory")


def read_job_options(parsed: argparse.Namespace, described: Iterable[Option]) -> dict[str, Any]:
    """Return the options of a job: those that are described and were given, and those of ``--set``, as text.

    Raises:
        ConfigError: a ``--set`` is not of the form NAME=VALUE.
    """
    options = {option.name: getattr(parsed, option.name) for option in described}
    options = {name: value for name, value in options.items() if value is not None}
    for text in parsed.set:
        name, separator, value = text.partition("=")
        if not separator or not name:
            raise ConfigError(f"--set {text!r}: expected NAME=VALUE")
        options[name] = value
    return options
