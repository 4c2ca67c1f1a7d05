"""``glm doctor``: check an installation from the outside in, and say what to do about each fault."""

from __future__ import annotations

import importlib.util
import os
import platform
import shutil
import sys
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from importlib import metadata
from typing import Literal

from ..config import Settings, find_config_file, find_hub_cache, load_settings
from ..errors import GlmError
from ..isolation import end_sentence
from ..models import list_known_models, resolve, verify_files
from ..plugins import PluginHost, PluginReport, get_default_host
from ..records import ModelCard
from ..survey import Survey, take_survey
from .devices import list_taken_devices
from .options import make_command_parser, print_json
from .plugins import examine_plugins

Verdict = Literal["ok", "note", "fault"]
MARKS: dict[Verdict, str] = {"ok": "ok   ", "note": "note ", "fault": "FAULT"}
LOW_DISK_BYTES = 15 * 10**9  # ChatGLM-6B's files, and some room beside them
SLOW_SECONDS = 1.0
"""A plugin that needs longer to be imported or to describe itself is named: every command waits for it."""


@dataclass(frozen=True)
class Finding:
    """One line of the report."""

    check: str
    verdict: Verdict
    message: str


def run(arguments: list[str]) -> int:
    """Run every check; the exit status is 2 if one found a fault."""
    parser = make_command_parser("doctor", "Check the installation.")
    parser.add_argument("--model", metavar="NAME_OR_PATH", help="also compare the files of this model")
    parser.add_argument("--json", action="store_true", help="as JSON")
    parsed = parser.parse_args(arguments)
    try:
        findings = [*examine(get_default_host()), *_check_files(parsed.model)]
    except GlmError as error:  # the settings that say which plugins to load cannot be read
        findings = [*_check_python(), Finding("settings", "fault", str(error)), *_check_cache()]
    if parsed.json:
        print_json([asdict(finding) for finding in findings])
    else:
        for finding in findings:
            print(f"{MARKS[finding.verdict]}  {finding.check}: {finding.message}")
    return 2 if any(finding.verdict == "fault" for finding in findings) else 0


def examine(host: PluginHost) -> Iterator[Finding]:
    """Yield all findings, in the order in which a person would look.

    Raises:
        ConfigError: the settings are wrong.
    """
    settings = load_settings()
    yield from _check_python()
    path = find_config_file()
    origin = f"from {path}" if path.is_file() else f"no file at {path}, defaults and environment only"
    yield Finding("settings", "ok", f"{origin}; model {settings.model}, device {settings.device}")
    survey, cards = take_survey(host), host.describe_many("describe_models", ModelCard)
    yield from _check_plugins(examine_plugins(host, survey, cards))
    yield from _check_stages(host)
    yield _check_device(survey, settings)
    yield from _check_models(list_known_models(host, cards))
    yield from _check_cache()


def _check_python() -> Iterator[Finding]:
    yield Finding(
        "python", "ok", f"{platform.python_version()} on {platform.platform(terse=True)} ({sys.executable})"
    )
    for package in ("torch", "transformers"):
        if importlib.util.find_spec(package) is None:
            yield Finding(package, "note", "not installed; glm-runtime-torch needs it")
            continue
        try:
            yield Finding(package, "ok", metadata.version(package))
        except metadata.PackageNotFoundError:  # built from source, or put on the path by hand
            yield Finding(package, "note", "there, but not installed by a package manager")


def _check_plugins(reports: Iterable[PluginReport]) -> Iterator[Finding]:
    for report in reports:
        name = f"plugin {report.name}"
        package = f"{report.distribution} {report.version}"
        if report.status == "ok":
            slow = {what: seconds for what, seconds in report.seconds.items() if seconds > SLOW_SECONDS}
            wait = "for which every command may wait"
            notes = [*report.remarks, *(f"{what} takes {slow[what]:.1f} s, {wait}" for what in slow)]
            yield Finding(name, "note" if notes else "ok", "; ".join([package, *notes]))
        elif report.status == "disabled":
            yield Finding(name, "note", report.reason)
        else:
            advice = f"Update it, or pip uninstall {report.distribution}."
            what = end_sentence(f"{package} is {report.status}: {report.reason}")
            yield Finding(name, "fault", f"{what} {advice}")


def _check_stages(host: PluginHost) -> Iterator[Finding]:
    hooks = {"runtime-torch": "load_model", "backend-cpu": "place", "frontend-cli": "describe_frontend"}
    for package, hook in hooks.items():  # asked already: one that is broken answers no hook
        what = f"a {package.partition('-')[0]}"
        if host.list_answering(hook):
            yield Finding(what, "ok", "installed")
        else:
            yield Finding(what, "fault", f"none is installed or works: pip install glm-{package}")


def _check_device(survey: Survey, settings: Settings) -> Finding:
    try:
        devices = list_taken_devices(survey, settings.runtime, settings.device)
    except GlmError as error:
        return Finding("device", "fault", str(error))
    between = " or " if settings.device == "auto" else "; "
    labels = between.join(f"{device.name}, {device.label}" for device in devices)
    return Finding("device", "ok", f"{settings.device} takes {labels}")


def _check_models(cards: Iterable[ModelCard]) -> Iterator[Finding]:
    shipped = [card for card in cards if card.path is not None]
    if not shipped:
        yield Finding("models", "note", "no model is installed; pip install glm-model-demo for the demo")
    for card in shipped:
        if card.path is not None and card.path.is_dir():
            yield Finding(f"model {card.name}", "ok", str(card.path))
        else:
            yield Finding(f"model {card.name}", "fault", f"{card.path} is missing; install its package again")


def _check_files(name: str | None) -> Iterator[Finding]:
    if name is None:
        return
    try:  # offline, because a look at an installation downloads nothing
        source = resolve(get_default_host(), name, offline=True, hub=load_settings().hub)
        yield from (Finding(f"files of {name}", "ok", sentence) for sentence in verify_files(source))
    except GlmError as error:
        yield Finding(f"files of {name}", "fault", str(error))


def _check_cache() -> Iterator[Finding]:
    cache = find_hub_cache()
    there = next(parent for parent in (cache, *cache.parents) if parent.exists())
    if not os.access(there, os.W_OK):
        yield Finding("cache", "fault", f"{there} is not writable; models cannot be downloaded. Set HF_HOME.")
        return
    free = shutil.disk_usage(there).free
    verdict: Verdict = "ok" if free > LOW_DISK_BYTES else "note"
    enough = "" if verdict == "ok" else "; ChatGLM-6B in float16 takes 13.4 GB"
    yield Finding("cache", verdict, f"{cache}, {free / 1e9:.0f} GB free{enough}")
