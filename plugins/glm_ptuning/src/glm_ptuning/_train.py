"""A training job from its options to its last report."""

from __future__ import annotations

import contextlib
import dataclasses
import math
import time
from collections.abc import Generator, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from glm_runtime_torch.training import (
    TorchModel,
    TrainingIds,
    as_torch_model,
    get_training_tokenizer,
    use_gradient_checkpointing,
)

from glm_core.config import expand
from glm_core.errors import ConfigError
from glm_core.records import LoadedModel, TrainJob, TrainProgress

from ._checkpoints import TRAINER_STATE_FILE, Checkpoints, is_complete
from ._data import Columns, Table, read_column_names, read_rows
from ._examples import ExampleLengths, MicroBatches, collate, format_report, tokenize
from ._job import JobInputs, check_apart, claim, identify_job, lock_directory
from ._keywords import OF_THE_COMMANDS, ONLY_FOR_ANSWERS
from ._loop import TrainingLoop, TrainingTask
from ._objective import compute_mean_loss
from ._predictions_file import make_output_directory, read_object, read_results, write_results
from ._processes import Processes, choose_device, explain_launcher, read_rank_and_size
from ._rehearsal import check_disk, describe_first_batch, try_longest_batch
from ._settings import TrainingSettings, parse_settings, refuse_names
from ._trainable import Trainable, prepare, prepare_evaluation


def start(model: LoadedModel, job: TrainJob) -> Iterator[TrainProgress] | None:
    """Check a job's options now, train as the iterator is read; ``None`` for a model of another runtime."""
    ours = as_torch_model(model)
    return None if ours is None else train(ours, job, parse_job_settings(job.options))


def parse_job_settings(options: Mapping[str, Any]) -> TrainingSettings:
    """Return settings from the options of ``glm train``, where a prefix length of 0 trains all weights.

    Raises:
        ConfigError: one is unknown or has a bad value.
    """
    given = {name: value for name, value in options.items() if value is not None}
    refuse_names(given, OF_THE_COMMANDS, "do_train")
    if str(given.get("pre_seq_len")).strip() == "0":
        given["pre_seq_len"] = None
    return parse_settings({**given, "do_train": True}, unused=ONLY_FOR_ANSWERS)


def train(model: TorchModel, job: TrainJob, settings: TrainingSettings) -> Generator[TrainProgress]:
    """Run or resume a job.

    Raises:
        GlmError: whatever stops it; see `_loop.TrainingLoop.run`.
    """
    device = choose_device(job.devices)
    processes = Processes(device)
    try:
        yield from _train(model, job, settings, device, processes)
    finally:
        processes.close()


def evaluate(model: TorchModel, job: TrainJob, settings: TrainingSettings) -> float:
    """Return the mean loss on the validation file, with the prefix of ``ptuning_checkpoint`` if there is one.

    Raises:
        GlmError: the file, the model or the prefix cannot be used.
    """
    if read_rank_and_size()[0] == 0:
        make_output_directory(job.output_dir)
    device = choose_device(job.devices)
    if settings.ptuning_checkpoint is None:
        settings = dataclasses.replace(settings, pre_seq_len=None)
    data = _JobData(model, dataclasses.replace(settings, do_train=False, do_eval=True))
    encoder = prepare_evaluation(model, settings, device, job.scheme)
    size, processes = settings.per_device_eval_batch_size, Processes(device)
    batches = [
        collate(data.evaluation[start : start + size], data.evaluation_lengths, data.pad_token_id)
        for start in range(0, len(data.evaluation), size)
    ]
    try:
        loss = compute_mean_loss(model.network, encoder, batches, device, processes)
    finally:
        processes.close()
    if processes.is_first:
        write_results(job.output_dir, "eval", {"eval_loss": loss})
    return loss


def _train(
    model: TorchModel, job: TrainJob, settings: TrainingSettings, device: torch.device, processes: Processes
) -> Iterator[TrainProgress]:
    remarks = _list_remarks(job)
    if settings.pre_seq_len is None:
        if job.dtype != "float32":
            # Said each time: here nobody knows whether the dtype was chosen or is that of the device.
            remarks.append(
                f"all weights are trained in float32, not in {job.dtype}, which is too coarse for small steps"
            )
        model.dtype = torch.float32
    data = _JobData(model, settings)
    inputs = _collect_inputs(model, job, settings, data.order, processes)
    total = inputs.total_steps
    for message in [*settings.notices, *data.messages, *remarks]:
        yield TrainProgress(0, total, message=message)
    check_apart(job.output_dir, settings, model.directory)
    is_writing = processes.is_first and not settings.dry_run
    with lock_directory(job.output_dir) if is_writing else contextlib.nullcontext():
        yield from _run_checked(model, job, settings, device, processes, data, inputs)


def _run_checked(
    model: TorchModel,
    job: TrainJob,
    settings: TrainingSettings,
    device: torch.device,
    processes: Processes,
    data: _JobData,
    inputs: JobInputs,
) -> Iterator[TrainProgress]:
    """Run a job whose rows are known to be good, once its directory is its own."""
    total, identity = inputs.total_steps, identify_job(settings, inputs)
    if processes.is_first:
        overwrite = settings.overwrite_output_dir
        for message in claim(job.output_dir, identity, settings, overwrite=overwrite):
            yield TrainProgress(0, total, message=message)
    processes.wait()
    found = _find_checkpoint_to_resume(job.output_dir, settings)
    if found is not None and found.name == f"checkpoint-{total}" and not settings.dry_run:
        yield TrainProgress(total, total, message=f"this job is finished: {found} holds its last step")
        metrics = _read_metrics(
            job.output_dir, settings, total * inputs.micro_batches_per_step / data.order.per_epoch
        )
        if metrics is not None:
            best = _find_best(job.output_dir, settings) or found
            yield TrainProgress(total, total, checkpoint=best, metrics=metrics, finished=True)
            return
        yield TrainProgress(total, total, message="its results were not written and are completed now")
    trainable = prepare(model, settings, device, job.scheme)
    if settings.gradient_checkpointing:
        use_gradient_checkpointing(model.network)
    task = TrainingTask(
        network=model.network,
        trainable=trainable,
        device=device,
        half=model.dtype == torch.float16 and settings.pre_seq_len is not None,
        pad_token_id=data.pad_token_id,
        examples=data.examples,
        evaluation=data.evaluation,
        order=data.order,
        lengths=data.lengths,
        evaluation_lengths=data.evaluation_lengths,
        micro_batches_per_step=inputs.micro_batches_per_step,
        total_steps=total,
        output_dir=job.output_dir,
    )
    loop = TrainingLoop(task, settings, processes)
    if found is not None:
        loop.resume(found)
        yield TrainProgress(loop.progress.step, total, message=f"going on after {found}", checkpoint=found)
    yield TrainProgress(
        loop.progress.step, total, message=_format_summary(trainable, settings, inputs, processes)
    )
    if settings.dry_run:
        lines = [*describe_first_batch(task, get_training_tokenizer(model)), check_disk(task, settings)]
        for line in (*lines, try_longest_batch(loop, device), "dry run: nothing was written"):
            yield TrainProgress(loop.progress.step, total, message=line)
        yield TrainProgress(loop.progress.step, total, finished=True)
        return
    yield from _run(loop, job, settings, data, processes)


def _run(
    loop: TrainingLoop, job: TrainJob, settings: TrainingSettings, data: _JobData, processes: Processes
) -> Iterator[TrainProgress]:
    first, started = loop.progress.step, time.perf_counter()
    yield from loop.run()
    runtime, steps = time.perf_counter() - started, loop.progress.step
    metrics = {"train_loss": loop.progress.total_loss / max(steps, 1)}
    if settings.do_eval and data.evaluation:
        processes.wait()  # until the first one has written the checkpoint that is read
        loop.use_best()
        metrics["eval_loss"] = loop.evaluate()
    if processes.is_first:
        rows = (steps - first) * settings.per_device_train_batch_size * loop.micro_batches_per_step
        results = {
            "epoch": loop.build_trainer_state()["epoch"],
            "train_loss": metrics["train_loss"],
            "train_runtime": round(runtime, 4),
            "train_samples": len(data.examples),
            "train_samples_per_second": round(rows / runtime, 3),
            "train_steps_per_second": round((steps - first) / runtime, 3),
        }
        if "eval_loss" in metrics:
            write_results(job.output_dir, "eval", {"eval_loss": metrics["eval_loss"]})
        # Last: where its epoch is right, a kill has left out nothing.
        write_results(job.output_dir, "train", results)
    yield TrainProgress(steps, steps, checkpoint=loop.best_or_newest, metrics=metrics, finished=True)


def _read_metrics(output_dir: Path, settings: TrainingSettings, epoch: float) -> dict[str, float] | None:
    """Return the numbers of a finished job; ``None`` if some were not written before it was killed.

    Args:
        output_dir: of the job.
        settings: of the job.
        epoch: at its end; numbers of another one are from before the job was made longer.
    """
    wanted = ("train_loss", "eval_loss") if settings.do_eval else ("train_loss",)
    results = read_results(output_dir)
    is_whole = all(isinstance(results.get(name), int | float) for name in (*wanted, "epoch"))
    if not is_whole or abs(results["epoch"] - epoch) > 1e-4:  # it is written with four places
        return None
    return {name: float(results[name]) for name in wanted}


def _find_best(output_dir: Path, settings: TrainingSettings) -> Path | None:
    """Return the checkpoint that a finished job names as its best, if that was asked for and is there."""
    if not settings.load_best_model_at_end:
        return None
    state = read_object(output_dir / TRAINER_STATE_FILE)
    best = output_dir / Path(str(state.get("best_model_checkpoint"))).name
    return best if is_complete(best) else None


class _JobData:
    """The rows of a job as tokens, checked.

    Args:
        model: whose tokenizer and formats count.
        settings: of the job.

    Attributes:
        messages: notices for the user.
        examples: rows to learn; those of the replay file stand behind them.
        evaluation: rows to evaluate on.
    """

    def __init__(self, model: TorchModel, settings: TrainingSettings) -> None:
        self._settings = settings
        self._tokenizer = get_training_tokenizer(model)
        self.pad_token_id = self._tokenizer.pad_token_id
        self.messages: list[str] = []
        learn_padding = not settings.ignore_pad_token_for_loss
        self.lengths = ExampleLengths(
            settings.max_source_length, settings.max_target_length, settings.pad_to_max_length, learn_padding
        )
        self.evaluation_lengths = dataclasses.replace(
            self.lengths, target=settings.val_max_target_length or settings.max_target_length
        )
        own: list[TrainingIds] = []
        replay: list[TrainingIds] = []
        if settings.do_train:
            own = self._tokenize_file("train_file", settings.max_train_samples, self.lengths)
            if settings.replay_file is not None:
                replay = self._tokenize_file("replay_file", None, self.lengths)
        self.evaluation: list[TrainingIds] = []
        if settings.do_eval or settings.evaluation_strategy != "no":
            self.evaluation = self._tokenize_file(
                "validation_file", settings.max_eval_samples, self.evaluation_lengths
            )
        self.examples = own + replay
        self.order = MicroBatches(
            len(own),
            len(replay),
            settings.replay_share,
            settings.per_device_train_batch_size,
            settings.seed if settings.data_seed is None else settings.data_seed,
            drop_last=settings.dataloader_drop_last,
        )
        if replay:
            share = self.order.rows_per_epoch - len(own)
            self.messages.append(f"{share} of {self.order.rows_per_epoch} rows of an epoch are replayed")

    def _tokenize_file(self, name: str, limit: int | None, lengths: ExampleLengths) -> list[TrainingIds]:
        """Return the rows of a file that a setting names."""
        file = getattr(self._settings, name)
        if file is None:
            what = "evaluate on" if name == "validation_file" else "learn"
            raise ConfigError(f"{name} is missing: name the file with the rows to {what}")
        table = self._read_table(file, limit)
        examples = tokenize(table.rows, self._tokenizer, lengths, self._settings.source_prefix)
        self.messages.append(format_report(table, examples, lengths))
        return examples

    def _read_table(self, name: str, limit: int | None) -> Table:
        path, settings = expand(name), self._settings
        for column in ("prompt_column", "response_column"):
            if getattr(settings, column) is None:
                there = ", ".join(map(repr, read_column_names(path))) or "none"
                raise ConfigError(f"{column} is missing: {path} has the columns {there}")
        assert settings.prompt_column is not None
        assert settings.response_column is not None
        columns = Columns(settings.prompt_column, settings.response_column, settings.history_column)
        return read_rows(path, columns, limit=limit)


def _collect_inputs(
    model: TorchModel, job: TrainJob, settings: TrainingSettings, order: MicroBatches, processes: Processes
) -> JobInputs:
    per_step = settings.gradient_accumulation_steps * processes.size
    epochs = math.ceil(settings.num_train_epochs * order.per_epoch / per_step)
    dtype = str(model.dtype).removeprefix("torch.")
    return JobInputs(
        base=model.base.fingerprint,
        dtype=dtype,
        scheme="none" if job.scheme is None else str(job.scheme),
        micro_batches_per_step=per_step,
        total_steps=settings.max_steps if settings.max_steps > 0 else epochs,
    )


def _find_checkpoint_to_resume(output_dir: Path, settings: TrainingSettings) -> Path | None:
    if settings.resume_from_checkpoint is None:
        return Checkpoints(output_dir).find_newest()
    wanted = expand(settings.resume_from_checkpoint)
    if wanted.resolve().parent != output_dir.resolve() or not is_complete(wanted):
        raise ConfigError(
            f"resume_from_checkpoint {wanted} is no complete checkpoint of {output_dir}; leave it out to go "
            "on from the newest, or start from its weights with ptuning_checkpoint"
        )
    return wanted


def _list_remarks(job: TrainJob) -> list[str]:
    remarks = [explain_launcher()]
    if len(job.devices) > 1 and read_rank_and_size()[1] == 1:
        remarks.append(
            f"one process trains on one device, {job.devices[0]}; for several start it with torchrun"
        )
    return [remark for remark in remarks if remark]


def _format_summary(
    trainable: Trainable, settings: TrainingSettings, inputs: JobInputs, processes: Processes
) -> str:
    count = sum(value.numel() for _, value in trainable.list_parameters())
    rows = settings.per_device_train_batch_size * inputs.micro_batches_per_step
    what = (
        f"a prefix of {settings.pre_seq_len} positions" if settings.pre_seq_len is not None else "all weights"
    )
    shared = f" in {processes.size} processes" if processes.size > 1 else ""
    return (
        f"training {what} ({count:,} weights) for {inputs.total_steps} steps of {rows} rows{shared}; "
        f"base in {inputs.dtype}{'' if inputs.scheme == 'none' else f', {inputs.scheme}'}"
    )
