"""The original's call: ``ptuning(do_train=True, model_name_or_path=..., ...)``."""

from __future__ import annotations

import contextlib
import dataclasses
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from glm_jobs.stopping import StopSignals
from glm_runtime_torch.training import TorchModel, as_torch_model, open_adapter, read_stored_bits

from glm_core import resolve_model
from glm_core.config import Settings as CoreSettings, expand, is_first_process, load_settings
from glm_core.errors import CheckpointError, ConfigError
from glm_core.plugins import get_default_host
from glm_core.records import PredictJob, PredictProgress, TrainJob, TrainProgress
from glm_core.routing import open_for_training, open_model

from ._predict import predict, read_prediction
from ._predictions_file import write_results
from ._settings import TrainingSettings, parse_settings
from ._train import evaluate, train

TRAINER = "ptuning"
ADAPTER = "ptuning"
EVALUATION_FOLDER = "evaluation"
_PREDICTION_KEYWORDS = (
    *("prompt_column", "response_column", "history_column", "max_source_length", "max_target_length"),
    *("max_predict_samples", "source_prefix", "reference", "num_beams", "generation_num_beams"),
)


def ptuning(**keywords: Any) -> dict[str, float]:
    """Train, evaluate and predict, whichever of ``do_train``, ``do_eval`` and ``do_predict`` are true.

    Args:
        **keywords: every keyword of the original and every name of ``Seq2SeqTrainingArguments``;
            docs/ptuning.md lists them. The same call goes on with a training that was interrupted.

    Returns:
        The numbers of what was done: ``train_loss``, ``eval_loss``, ``predict_bleu-4`` and so on. They
        are in ``all_results.json`` too.

    Raises:
        ConfigError: a keyword is unknown or has a value that cannot be used.
        GlmError: whatever else keeps the job from being done; says what to do.
    """
    settings = parse_settings(keywords)
    if not (settings.do_train or settings.do_eval or settings.do_predict):
        raise ConfigError("nothing to do: pass do_train=True, do_eval=True or do_predict=True")
    if not settings.model_name_or_path:
        raise ConfigError("model_name_or_path is missing: name a directory, a known model or a hub id")
    _check_predictions(settings)
    core = _build_core_settings(settings)
    metrics: dict[str, float] = {}
    adapter = None if settings.ptuning_checkpoint is None else expand(settings.ptuning_checkpoint)
    if adapter is not None and settings.pre_seq_len is not None:
        # Here already, because reading a model of many gigabytes for nothing takes minutes.
        open_adapter(adapter).require(pre_seq_len=settings.pre_seq_len)
    if settings.do_train:
        last = _train(settings, core)
        if settings.dry_run:
            return {}
        metrics |= last.metrics
        if settings.pre_seq_len is not None:
            adapter = last.checkpoint
        elif last.checkpoint is not None:
            core = load_settings({**vars(core), "model": str(last.checkpoint)})
    elif settings.do_eval:
        metrics["eval_loss"] = _evaluate(settings, core)
    if settings.do_eval and settings.predict_with_generate and is_first_process():
        assert settings.validation_file is not None  # the evaluation above has read it
        metrics |= _score_answers(settings, core, adapter)
    if settings.do_predict and is_first_process():
        last_report = _predict(settings, core, adapter, settings.test_file, expand(settings.output_dir))
        metrics |= {f"predict_{name}": value for name, value in last_report.metrics.items()}
    return metrics


def _check_predictions(settings: TrainingSettings) -> None:
    """Check what answers will be asked, before hours of training that would end in an error about it.

    Raises:
        ConfigError: a file or an option cannot be used.
    """
    if settings.do_predict:
        read_prediction(_list_predict_options(settings, settings.test_file))
    if settings.do_eval and settings.predict_with_generate:
        if settings.validation_file is None:
            raise ConfigError("validation_file is missing: name the file with the rows to evaluate on")
        evaluation = _choose_evaluation(settings)
        read_prediction(_list_predict_options(evaluation, settings.validation_file))


def _choose_evaluation(settings: TrainingSettings) -> TrainingSettings:
    """Return the settings by which answers to the validation file are generated."""
    return dataclasses.replace(
        settings,
        max_predict_samples=settings.max_eval_samples,
        max_target_length=settings.val_max_target_length or settings.max_target_length,
    )


def _list_predict_options(settings: TrainingSettings, file: str | None) -> dict[str, Any]:
    return {**{name: getattr(settings, name) for name in _PREDICTION_KEYWORDS}, "test_file": file}


def _build_core_settings(settings: TrainingSettings) -> CoreSettings:
    """Return the settings that the same job on the command line would have."""
    assert settings.model_name_or_path is not None
    revision = None if settings.model_revision == "main" else settings.model_revision
    wanted = None if settings.quantization_bit is None else f"int{settings.quantization_bit}"
    directory = resolve_model(settings.model_name_or_path, revision=revision)
    stored = read_stored_bits(directory)
    if stored and settings.quantization_bit not in (None, stored):
        raise CheckpointError(
            f"{settings.model_name_or_path} is quantised to {stored} bits already, quantization_bit "
            f"{settings.quantization_bit} is asked for; leave quantization_bit out, or pass the float16 model"
        )
    dtype = "float16" if settings.fp16 else "bfloat16" if settings.bf16 else "auto"
    if settings.do_train and settings.pre_seq_len is None:
        if dtype != "auto":
            _print_notice(f"all weights are trained in float32; {dtype} is too coarse for small steps")
        dtype = "float32"  # because small steps vanish in weights of half precision
    return load_settings(
        {
            "model": settings.model_name_or_path,
            "revision": revision,
            "device": "cpu" if settings.no_cuda else None,
            "dtype": dtype,
            "quantize": None if stored else wanted,
        }
    )


def _train(settings: TrainingSettings, core: CoreSettings) -> TrainProgress:
    last = TrainProgress(0, 0)
    with (
        _open_model_to_train(settings, core) as (model, job),
        contextlib.closing(train(model, job, settings)) as reports,
        StopSignals(_print_notice) as stop,
    ):
        for last in reports:
            stop.may_wait = last.step > 0 and last.loss is not None
            _print_step(last, settings.count_steps("logging_steps", last.total_steps))
            if stop.is_asked and not last.finished:
                break
    if stop.is_asked and not last.finished:
        _print_notice(
            f"stopped after step {last.step} of {last.total_steps}; the same call goes on from there"
        )
        stop.raise_stopped()
    return last


def _evaluate(settings: TrainingSettings, core: CoreSettings) -> float:
    with _open_model_to_train(settings, core) as (model, job):
        return evaluate(model, job, settings)


@contextlib.contextmanager
def _open_model_to_train(
    settings: TrainingSettings, core: CoreSettings
) -> Iterator[tuple[TorchModel, TrainJob]]:
    opened, devices, dtype, scheme = open_for_training(get_default_host(), core, notify=_print_notice)
    with contextlib.closing(opened):
        model = as_torch_model(opened)
        if model is None:
            raise CheckpointError(f"{core.model} is of no family that can be trained")
        names = tuple(device.name for device in devices)
        yield model, TrainJob(TRAINER, expand(settings.output_dir), {}, names, dtype, scheme)


def _score_answers(settings: TrainingSettings, core: CoreSettings, adapter: Path | None) -> dict[str, float]:
    """Return the scores of generated answers to the validation file."""
    output_dir = expand(settings.output_dir)
    last = _predict(
        _choose_evaluation(settings), core, adapter, settings.validation_file, output_dir / EVALUATION_FOLDER
    )
    scores = {f"eval_{name}": value for name, value in last.metrics.items()}
    write_results(output_dir, "eval", scores)
    return scores


def _predict(
    settings: TrainingSettings, core: CoreSettings, adapter: Path | None, file: str | None, output_dir: Path
) -> PredictProgress:
    options = _list_predict_options(settings, file)
    adapters = {} if adapter is None else {ADAPTER: adapter}
    job = PredictJob(TRAINER, output_dir, options, adapter=ADAPTER if adapters else None)
    last = PredictProgress(0, 0)
    with open_model(get_default_host(), core, adapters=adapters, notify=_print_notice) as model:
        loaded: Any = model.loaded
        for last in predict(loaded, job):
            if last.message:
                _print_notice(last.message)
    return last


def _print_step(report: TrainProgress, every: int) -> None:
    if report.message:
        _print_notice(report.message)
    elif report.loss is not None and (report.step % every == 0 or report.metrics):
        numbers = {"loss": report.loss, "learning rate": report.learning_rate or 0.0, **report.metrics}
        listed = ", ".join(f"{name} {value:.4g}" for name, value in numbers.items())
        _print_notice(f"step {report.step} of {report.total_steps}: {listed}")


def _print_notice(line: str) -> None:
    if is_first_process():
        print(f"glm: {line}", file=sys.stderr, flush=True)
