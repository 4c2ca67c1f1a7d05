"""``glm train TRAINER``: train, or go on with, a job of an installed trainer."""

from __future__ import annotations

import argparse
import contextlib
import sys
from collections.abc import Callable, Generator, Mapping

from glm_core.cli.options import (
    add_plugin_options,
    add_setting_options,
    make_command_parser,
    print_failed_plugins,
    print_notice,
)
from glm_core.config import is_first_process, load_settings
from glm_core.errors import ConfigError, PluginError
from glm_core.plugins import PluginHost, get_default_host
from glm_core.records import TrainerInfo, TrainJob, TrainProgress
from glm_core.routing import open_for_training

from ._progress import check_progress
from ._progress_bar import Drawing, draw_progress
from ._trainers import add_set_option, find_trainers, read_job_options, read_output_directory
from .stopping import StopSignals

LINES = 20  # in a log: more than of other jobs, because the loss is what one looks for there
MODEL_SETTINGS = (
    *("model", "revision", "runtime", "family", "device", "dtype", "quantize"),
    *("hub", "offline", "verify"),
)


def run(arguments: list[str]) -> int:
    """Parse, check, train, print the directory of the last checkpoint."""
    host = get_default_host()
    known = find_trainers(host, "train")
    if not arguments or arguments[0].startswith("-"):
        return _explain(known, arguments)
    plugin, trainer = _choose_trainer(host, known, arguments[0])
    parsed = _build_parser(trainer).parse_args(arguments[1:])
    output_dir = read_output_directory(parsed.output_dir)
    first = is_first_process()
    tell: Callable[[str], None] = print_notice if first else _say_nothing
    settings = load_settings({name: getattr(parsed, name) for name in MODEL_SETTINGS})
    if first:
        print_failed_plugins(host)
        if settings.model == "demo" and parsed.model is None:
            print_notice(
                "model: the bundled demo, a small stand-in; --model THUDM/chatglm-6b takes the real one"
            )
    model, devices, dtype, scheme = open_for_training(host, settings, notify=tell)
    with contextlib.closing(model):
        job = TrainJob(
            trainer=trainer.name,
            output_dir=output_dir,
            options=read_job_options(parsed, trainer.options),
            devices=tuple(device.name for device in devices),
            dtype=dtype,
            scheme=scheme,
        )
        reports = host.call(plugin, "train", model=model, job=job)
        if reports is None:
            raise PluginError(
                f"trainer {trainer.name!r} cannot train this model ({model.info.family}); choose another "
                "--model"
            )
        last = _follow(check_progress(plugin, "train", reports, TrainProgress), tell, draw=first)
    if first and last.checkpoint is not None:
        print(last.checkpoint)
    return 0


def _choose_trainer(
    host: PluginHost, known: Mapping[str, tuple[str, TrainerInfo]], name: str
) -> tuple[str, TrainerInfo]:
    if name in known:
        return known[name]
    if not known:
        raise PluginError(f"no installed plugin can train: pip install glm-ptuning{host.describe_unused()}")
    raise ConfigError(
        f"trainer {name!r} is unknown; choose one of: {', '.join(known)}{host.describe_unused()}"
    )


def _explain(known: Mapping[str, tuple[str, TrainerInfo]], arguments: list[str]) -> int:
    """Print which trainers there are, as help or as an error, where none is named."""
    listed = [f"  {name}  {info.summary}" for name, (_, info) in known.items()]
    parser = make_command_parser(
        "train",
        "Train with an installed trainer. The options of one: glm train TRAINER --help",
        usage="glm train TRAINER --output-dir DIR [OPTION ...]",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="installed trainers:\n" + ("\n".join(listed) or "  none; pip install glm-ptuning"),
    )
    if not arguments:
        parser.print_help(sys.stderr)
        return 2
    if arguments[0] not in ("-h", "--help"):
        parser.error(f"name the trainer first: glm train TRAINER {arguments[0]} ...")
    parser.print_help()
    return 0


def _build_parser(trainer: TrainerInfo) -> argparse.ArgumentParser:
    parser = make_command_parser(
        f"train {trainer.name}",
        f"{trainer.summary}. The same command goes on with a job that was interrupted.",
    )
    parser.add_argument("--output-dir", metavar="DIR", required=True, help="where checkpoints and logs go")
    add_set_option(parser)
    add_plugin_options(parser, trainer.name, trainer.options)
    group = parser.add_argument_group("model")
    add_setting_options(group, "model", "revision", "runtime", "family", "device")
    group.add_argument("--dtype", metavar="T", help="of the frozen weights (auto)")
    group.add_argument("--quantize", metavar="Q", help="the frozen weights: none, int8, int4 (none)")
    add_setting_options(group, "hub", "offline", "verify")
    return parser


def _say_nothing(line: str) -> None:
    """Drop what the other processes of a job would tell."""


def _follow(
    reports: Generator[TrainProgress, None, None], tell: Callable[[str], None], *, draw: bool
) -> TrainProgress:
    """Read all reports; after a signal to stop the step that runs is finished and its checkpoint written."""
    last = TrainProgress(0, 0)
    drawn = draw_progress(reports, _Describe(), lines=LINES) if draw else reports
    with StopSignals(print_notice) as stop, contextlib.closing(drawn):
        for last in drawn:
            if last.message:
                tell(last.message)
            stop.may_wait = last.step > 0 and last.loss is not None
            if stop.is_asked and not last.finished:
                break
    if stop.is_asked and not last.finished:
        tell(f"stopped after step {last.step} of {last.total_steps}; the same command goes on from there")
        stop.raise_stopped()
    return last


class _Describe:
    """Describes a step by its number, a running mean of the loss, and what was evaluated."""

    def __init__(self) -> None:
        self._mean_loss: float | None = None

    def __call__(self, progress: TrainProgress) -> Drawing | None:
        if progress.loss is None:
            return None
        mean = self._mean_loss
        self._mean_loss = progress.loss if mean is None else 0.9 * mean + 0.1 * progress.loss
        text = f"step {progress.step} of {progress.total_steps}, loss {self._mean_loss:.4g}"
        for name, value in progress.metrics.items():
            text += f", {name} {value:.4g}"
        is_due = progress.step == progress.total_steps or bool(progress.metrics)
        return Drawing(progress.step, progress.total_steps, text, is_due=is_due)
