"""``glm predict``: answer every row of a file, write the answers and score them."""

from __future__ import annotations

import argparse
from collections.abc import Mapping

from glm_core.cli.options import (
    add_model_options,
    add_plugin_options,
    make_command_parser,
    make_model_opener,
    parse_adapters,
    print_notice,
    print_table,
)
from glm_core.errors import ConfigError, PluginError
from glm_core.plugins import PluginHost, get_default_host
from glm_core.records import PredictJob, PredictProgress, TrainerInfo

from ._progress import check_progress
from ._progress_bar import Drawing, draw_progress
from ._trainers import add_set_option, find_trainers, read_job_options, read_output_directory


def run(arguments: list[str]) -> int:
    """Parse, check, answer, print the scores."""
    host = get_default_host()
    known = find_trainers(host, "predict")
    plugin, trainer = _choose_trainer(host, known, arguments)
    parser = _build_parser(known, trainer)
    parsed = parser.parse_args(arguments)
    job = _build_job(parsed, trainer)
    last: PredictProgress | None = None
    try:
        with make_model_opener(host, parsed)() as model:
            reports = host.call(plugin, "predict", model=model.loaded, job=job)
            if reports is None:
                raise PluginError(
                    f"trainer {trainer.name!r} cannot ask this model ({model.info.family}); choose another "
                    "--model or --trainer"
                )
            checked = check_progress(plugin, "predict", reports, PredictProgress)
            for last in draw_progress(checked, _describe):
                if last.message:
                    print_notice(last.message)
    except KeyboardInterrupt:
        print_notice("stopped; the same command goes on after the rows that are answered")
        raise
    if last is not None:
        _print_result(last)
    return 0


def _choose_trainer(
    host: PluginHost, known: Mapping[str, tuple[str, TrainerInfo]], arguments: list[str]
) -> tuple[str, TrainerInfo]:
    """Return the trainer that ``--trainer`` names, or the only one; before its options are parsed."""
    early = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    early.add_argument("--trainer")
    named = early.parse_known_args(arguments)[0].trainer
    if not known:
        raise PluginError(f"no installed plugin can predict: pip install glm-ptuning{host.describe_unused()}")
    if named is None and len(known) > 1:
        raise ConfigError(f"several trainers can predict; choose one with --trainer: {', '.join(known)}")
    if named is not None and named not in known:
        raise ConfigError(
            f"trainer {named!r} is unknown or cannot predict; choose one of: {', '.join(known)}"
        )
    return known[named] if named else next(iter(known.values()))


def _build_parser(
    known: Mapping[str, tuple[str, TrainerInfo]], trainer: TrainerInfo
) -> argparse.ArgumentParser:
    parser = make_command_parser("predict", "Answer every row of a file, write the answers and score them.")
    parser.add_argument("--output-dir", metavar="DIR", required=True, help="where answers and scores go")
    parser.add_argument(
        "--trainer", metavar="NAME", help=f"whose prediction: {', '.join(known)} ({trainer.name})"
    )
    add_set_option(parser)
    add_plugin_options(parser, trainer.name, trainer.predict_options)
    add_model_options(parser)
    return parser


def _build_job(parsed: argparse.Namespace, trainer: TrainerInfo) -> PredictJob:
    adapters = list(parse_adapters(parsed.adapter))
    if len(adapters) > 1:
        raise ConfigError(
            f"one adapter is asked at a time, {len(adapters)} are given: {', '.join(adapters)}; "
            "run the command once for each"
        )
    options = read_job_options(parsed, trainer.predict_options)
    return PredictJob(
        trainer.name, read_output_directory(parsed.output_dir), options, next(iter(adapters), None)
    )


def _print_result(last: PredictProgress) -> None:
    if last.metrics:
        print_table(
            ("score", "value"), [(name, f"{value:.4f}") for name, value in sorted(last.metrics.items())]
        )
    for path in last.files:
        print_notice(f"written: {path}")


def _describe(progress: PredictProgress) -> Drawing:
    text = f"{progress.done} of {progress.total} rows"
    return Drawing(progress.done, progress.total, text, is_due=progress.finished)
