"""``glm quantize SRC DST``: write a quantised checkpoint that loads without the original."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Generator
from pathlib import Path

from glm_core.cli.options import (
    add_setting_options,
    make_command_parser,
    make_number_reader,
    print_notice,
)
from glm_core.config import expand, load_settings
from glm_core.errors import CheckpointError, ConfigError
from glm_core.models import verify_files
from glm_core.pairing import identify
from glm_core.plugins import PluginHost, get_default_host
from glm_core.records import ModelSource, QuantizationScheme, QuantizeJob, QuantizeProgress
from glm_core.routing import resolve_settings
from glm_core.survey import take_survey

from ._progress import check_progress
from ._progress_bar import Drawing, draw_progress

SOURCE_SETTINGS = ("revision", "runtime", "family", "hub", "offline", "verify")


def run(arguments: list[str]) -> int:
    """Parse, check, write."""
    parsed = _build_parser().parse_args(arguments)
    job = _build_job(parsed)
    _check_free(job.destination)
    host = get_default_host()
    settings = load_settings(
        {name: getattr(parsed, name) for name in SOURCE_SETTINGS} | {"model": parsed.source}
    )
    source = resolve_settings(host, settings)
    for sentence in verify_files(source) if settings.verify else ():
        print_notice(sentence)
    try:
        reports = _start_job(host, source, job, settings.runtime)
        for progress in draw_progress(reports, _describe, time_left=False):
            if progress.message:
                print_notice(progress.message)
    except KeyboardInterrupt:
        print_notice("stopped; the same command goes on with what is finished")
        raise
    print(job.destination)
    return 0


def _build_parser() -> argparse.ArgumentParser:
    parser = make_command_parser("quantize", "Write a quantised checkpoint that loads without the original.")
    parser.add_argument("source", metavar="SRC", help="directory, known name or hub id of the original")
    parser.add_argument("destination", metavar="DST", help="directory to write; it must not exist yet")
    parser.add_argument("--bits", metavar="N", type=make_number_reader(int), required=True, help="8 or 4")
    parser.add_argument(
        "--group-size",
        metavar="N",
        type=make_number_reader(int),
        default=0,
        help="with 4 bits: input features that share a scale: 32, 64 or 128 (a scale per row)",
    )
    parser.add_argument(
        "--method", choices=("rtn", "gptq"), default="rtn", help="round to nearest, or GPTQ (rtn)"
    )
    parser.add_argument(
        "--calibration", metavar="FILE", help="text that gptq feeds to the model, one passage a line"
    )
    parser.add_argument(
        "--quantize-embeddings",
        dest="embeddings",
        action=argparse.BooleanOptionalAction,
        default=False,
        help="also the embedding table and the head that shares it (no)",
    )
    add_setting_options(parser, *SOURCE_SETTINGS)
    return parser


def _build_job(parsed: argparse.Namespace) -> QuantizeJob:
    if parsed.calibration is not None and parsed.method != "gptq":
        raise ConfigError("--calibration is for --method gptq; rtn looks at the weights alone")
    return QuantizeJob(
        destination=expand(parsed.destination),
        scheme=QuantizationScheme(parsed.bits, parsed.group_size),
        method=parsed.method,
        calibration=None if parsed.calibration is None else expand(parsed.calibration),
        embeddings=parsed.embeddings,
    )


def _check_free(destination: Path) -> None:
    """Refuse a destination that is taken, before a source of many gigabytes is downloaded for it.

    The runtime looks closer, once it has the source.

    Raises:
        ConfigError: it is a link, or there and no directory.
    """
    try:
        if destination.is_symlink():
            raise ConfigError(
                f"{destination} is a link to {destination.readlink()}; pass the place that it leads to, or "
                "delete the link"
            )
        if destination.exists() and not destination.is_dir():
            raise ConfigError(f"{destination} is a file; choose a directory that does not exist yet")
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        raise ConfigError(
            f"{str(destination)!r} cannot be used: {error}; choose another destination"
        ) from error


def _start_job(
    host: PluginHost, source: ModelSource, job: QuantizeJob, wanted: str
) -> Generator[QuantizeProgress, None, None]:
    """Return what the runtime reports that knows the source.

    Raises:
        CheckpointError: no runtime that was asked knows and quantises it.
        ConfigError: two do, and the user must choose.
    """
    survey = take_survey(host)
    identification = identify(survey, source, wanted)
    able = [name for name in identification.matches if name in host.list_answering("quantize_checkpoint")]
    if len(able) > 1:
        raise ConfigError(
            f"several runtimes can quantise {source.path or source.name}; choose with "
            + survey.format_runtime_options(able)
        )
    for error in identification.failures.values():
        if not able:
            raise error
        print_notice(str(error))
    for runtime in able:
        reports = host.call(runtime, "quantize_checkpoint", source=source, job=job)
        if reports is not None:
            return check_progress(runtime, "quantize_checkpoint", reports, QuantizeProgress)
    what = f"quantise {source.path or source.name}"
    if wanted != "auto":
        raise CheckpointError(f"runtime {wanted} cannot {what}; choose another --runtime, or leave it out")
    raise CheckpointError(
        f"no installed runtime can {what}; pass the directory of a ChatGLM checkpoint, the one that holds "
        f"config.json{host.describe_unused()}"
    )


def _describe(progress: QuantizeProgress) -> Drawing:
    unit, name = (1e9, "GB") if progress.total >= 1e9 else (1e6, "MB")
    sizes = f"{progress.done / unit:.2f} of {progress.total / unit:.2f} {name}"
    text = f"{sizes} {progress.tensor}" if progress.tensor and sys.stderr.isatty() else sizes
    return Drawing(progress.done, progress.total, text, is_due=progress.finished)
