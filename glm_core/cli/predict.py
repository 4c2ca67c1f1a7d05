"""``glm predict``: answer every row of a file, write the answers and score them."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from .._progress import check_progress
from ..config import expand
from ..errors import ConfigError, PluginError
from ..plugins import PluginHost, default_host
from ..records import PredictJob, PredictProgress, TrainerInfo
from ._jobs import add_set_option, job_options, trainers
from ._options import (
    add_model_options,
    add_plugin_options,
    command_parser,
    model_opener,
    notice,
    parse_adapters,
    print_table,
)

BAR_PLACES = 30
SECONDS_BETWEEN_DRAWINGS = 0.1
LINES = 10


def run(arguments: list[str]) -> int:
    """Parse, check, answer, print the scores."""
    host = default_host()
    known = trainers(host, "predict")
    plugin, trainer = _chosen(host, known, arguments)
    parser = _parser(known, trainer)
    parsed = parser.parse_args(arguments)
    job = _job(parsed, trainer)
    last: PredictProgress | None = None
    try:
        with model_opener(host, parsed)() as model:
            reports = host.call(plugin, "predict", model=model.loaded, job=job)
            if reports is None:
                raise PluginError(
                    f"trainer {trainer.name!r} cannot ask this model ({model.info.family}); choose another "
                    "--model or --trainer"
                )
            for last in _shown(check_progress(plugin, "predict", reports, PredictProgress)):
                if last.message:
                    notice(last.message)
    except KeyboardInterrupt:
        notice("stopped; the same command goes on after the rows that are answered")
        raise
    if last is not None:
        _print_result(last)
    return 0


def _chosen(
    host: PluginHost, known: Mapping[str, tuple[str, TrainerInfo]], arguments: list[str]
) -> tuple[str, TrainerInfo]:
    """The trainer that ``--trainer`` names, or the only one; looked up before its options are parsed."""
    early = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    early.add_argument("--trainer")
    named = early.parse_known_args(arguments)[0].trainer
    if not known:
        raise PluginError(f"no installed plugin can predict: pip install glm-ptuning{host.unused()}")
    if named is None and len(known) > 1:
        raise ConfigError(f"several trainers can predict; choose one with --trainer: {', '.join(known)}")
    if named is not None and named not in known:
        raise ConfigError(
            f"trainer {named!r} is unknown or cannot predict; choose one of: {', '.join(known)}"
        )
    return known[named] if named else next(iter(known.values()))


def _parser(known: Mapping[str, tuple[str, TrainerInfo]], trainer: TrainerInfo) -> argparse.ArgumentParser:
    parser = command_parser("predict", "Answer every row of a file, write the answers and score them.")
    parser.add_argument("--output-dir", metavar="DIR", required=True, help="where answers and scores go")
    parser.add_argument(
        "--trainer", metavar="NAME", help=f"whose prediction: {', '.join(known)} ({trainer.name})"
    )
    add_set_option(parser)
    add_plugin_options(parser, trainer.name, trainer.predict_options)
    add_model_options(parser)
    return parser


def _job(parsed: argparse.Namespace, trainer: TrainerInfo) -> PredictJob:
    adapters = list(parse_adapters(parsed.adapter))
    if len(adapters) > 1:
        raise ConfigError(
            f"one adapter is asked at a time, {len(adapters)} are given: {', '.join(adapters)}; "
            "run the command once for each"
        )
    options = job_options(parsed, trainer.predict_options)
    return PredictJob(trainer.name, _output_directory(parsed.output_dir), options, next(iter(adapters), None))


def _output_directory(text: str) -> Path:
    directory = expand(text)
    if directory.exists() and not directory.is_dir():
        raise ConfigError(f"--output-dir {directory} is a file; choose a directory")
    return directory


def _print_result(last: PredictProgress) -> None:
    if last.metrics:
        print_table(
            ("score", "value"), [(name, f"{value:.4f}") for name, value in sorted(last.metrics.items())]
        )
    for path in last.files:
        notice(f"written: {path}")


def _shown(reports: Iterator[PredictProgress]) -> Iterator[PredictProgress]:
    """The same reports, drawn as a bar with the time left on a terminal and as some lines elsewhere."""
    stream: Any = sys.stderr
    if stream is None:
        yield from reports
        return
    terminal = stream.isatty()
    clock = _Clock()
    drawn, next_line = 0.0, 0.0
    try:
        for progress in reports:
            clock.see(progress.done)
            if terminal and drawn and progress.message:
                stream.write("\r\x1b[K")
            yield progress
            share = progress.done / progress.total if progress.total else 1.0
            if terminal and (progress.finished or time.monotonic() - drawn >= SECONDS_BETWEEN_DRAWINGS):
                drawn = time.monotonic()
                full = int(share * BAR_PLACES)
                stream.write(
                    f"\r\x1b[K[{'#' * full}{'.' * (BAR_PLACES - full)}] {clock.line(progress, share)}"
                )
            elif not terminal and progress.done and (progress.finished or next_line <= share < 1):
                next_line = (int(share * LINES) + 1) / LINES
                stream.write(f"{clock.line(progress, share)}\n")
            stream.flush()
    finally:
        if terminal and drawn:
            stream.write("\n")


class _Clock:
    """Tells the time left from the rows that were answered since the first report."""

    def __init__(self) -> None:
        self._started = time.monotonic()
        self._first: int | None = None

    def see(self, done: int) -> None:
        if self._first is None:
            self._started, self._first = time.monotonic(), done

    def line(self, progress: PredictProgress, share: float) -> str:
        text = f"{share:4.0%}  {progress.done} of {progress.total} rows"
        answered, seconds = progress.done - (self._first or 0), time.monotonic() - self._started
        if answered <= 0 or progress.finished or progress.done >= progress.total:
            return text
        left = int(seconds / answered * (progress.total - progress.done))
        return f"{text}, {left // 3600}:{left // 60 % 60:02}:{left % 60:02} left"
