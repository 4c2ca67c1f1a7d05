"""The training loop: steps, logs, checkpoints, and resuming exactly where a job stopped.

It is our own and not transformers' Trainer because of what is asked of it: the same bits after a kill,
checkpoints that are there whole or not at all, the same result from one process or several, and an
iterator that a caller can close between two steps. Nothing in a step depends on the past but the weights,
the optimiser and the step's number: which rows it sees, what dropout drops and the learning rate all
follow from that number. What a family's rows look like is its tokenizer's ``encode_training_row``.

Axes: B rows of a micro batch · n learnt tokens
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from glm_runtime_torch.training import TrainingIds, compute_token_losses, count_resident_bytes
from torch import Tensor

from glm_core.records import TrainProgress

from ._checkpoints import DAMAGE, Checkpoints, SavedState, build_damage_error, read_checkpoint
from ._examples import ExampleLengths, MicroBatches, collate
from ._guard import DivergenceGuard, TrainingStoppedError
from ._logs import PLOT_FILE, NumbersLog, draw_losses, open_logs, write_trainer_state
from ._loop_progress import LoopProgress
from ._objective import compute_mean_loss
from ._optimizer import (
    build_optimizer,
    get_optimizer_state,
    load_optimizer_state,
    make_schedule,
    set_learning_rate,
)
from ._processes import Processes
from ._randomness import choose_threads, get_random_state, restore_random_state, seed_all, use_threads
from ._settings import TrainingSettings
from ._trainable import Trainable

# Loss scale of a float16 base: it keeps small gradients from vanishing, and is halved if large ones overflow.
INITIAL_SCALE = 2.0**12

_log = logging.getLogger("glm")


@dataclass(frozen=True)
class TrainingTask:
    """What a loop trains, on what, and for how long.

    Attributes:
        network: of any family of the runtime, on ``device``.
        trainable: what is trained.
        device: where.
        half: whether the network computes in float16, so that losses are scaled.
        pad_token_id: fills up short rows.
        examples: rows to learn; those of the replay file stand behind them.
        evaluation: rows to evaluate on.
        order: which rows each micro batch has.
        lengths: of the examples.
        evaluation_lengths: of the rows to evaluate on.
        micro_batches_per_step: of all processes together.
        total_steps: of the job.
        output_dir: where checkpoints and logs go.
    """

    network: Any
    trainable: Trainable
    device: torch.device
    half: bool
    pad_token_id: int
    examples: Sequence[TrainingIds]
    evaluation: Sequence[TrainingIds]
    order: MicroBatches
    lengths: ExampleLengths
    evaluation_lengths: ExampleLengths
    micro_batches_per_step: int
    total_steps: int
    output_dir: Path


class TrainingLoop:
    """One job, from its first step or from a checkpoint to its last step.

    Args:
        task: what it works on.
        settings: of the job.
        processes: that share it.
    """

    def __init__(self, task: TrainingTask, settings: TrainingSettings, processes: Processes) -> None:
        self._task = task
        self._settings = settings
        self._processes = processes
        self._parameters = [value for _, value in task.trainable.list_parameters()]
        self._optimizer = build_optimizer(settings, task.trainable.list_parameters())
        self._rate = make_schedule(settings, self._optimizer, task.total_steps)
        self._scaler = torch.amp.GradScaler(task.device.type, init_scale=INITIAL_SCALE, enabled=task.half)
        self._guard = DivergenceGuard(stop_on_divergence=settings.stop_on_divergence)
        self._checkpoints = Checkpoints(task.output_dir, settings.save_total_limit)
        self._progress = LoopProgress()
        self._saved: Path | None = None
        self._logs: list[NumbersLog] = []
        self._threads = choose_threads(count_resident_bytes(task.network))

    @property
    def progress(self) -> LoopProgress:
        """Return how far the job is."""
        return self._progress

    @property
    def micro_batches_per_step(self) -> int:
        """Return the micro batches of a step, of all processes together."""
        return self._task.micro_batches_per_step

    @property
    def best_or_newest(self) -> Path | None:
        """Return the checkpoint to use: the best one if that was asked for, else the newest."""
        step = self._progress.best_step
        if (
            self._settings.load_best_model_at_end
            and step is not None
            and self._checkpoints.get_path(step).is_dir()
        ):
            return self._checkpoints.get_path(step)
        return self._saved

    def use_best(self) -> None:
        """Put the weights of the best checkpoint in place, if that was asked for and they are others."""
        best = self.best_or_newest
        if best is not None and best != self._saved:
            self._task.trainable.read(best)

    def resume(self, path: Path) -> None:
        """Continue from a checkpoint; every later step is the same as if the job had never stopped.

        Raises:
            ConfigError: the checkpoint is damaged.
            AdapterError: its weights are.
        """
        saved = read_checkpoint(path)
        self._task.trainable.read(path)
        try:
            self._restore(saved)
        except DAMAGE as error:  # the files have values of other types or shapes than a job writes
            raise build_damage_error(path, error) from error
        self._saved = path

    def _restore(self, saved: SavedState) -> None:
        load_optimizer_state(self._optimizer, saved.tensors, saved.state["optimizer"])
        if self._task.half:
            self._scaler.load_state_dict(saved.state["scaler"])
        self._guard.load_state(saved.state["guard"])
        self._progress = LoopProgress(
            **saved.state["progress"], history=list(saved.trainer_state["log_history"])
        )
        self._progress.check(saved.step)
        restore_random_state(saved.tensors, saved.state["random"])
        self._threads = int(saved.state["threads"])
        if self._threads < 1:
            raise ValueError(f"threads is {self._threads}")

    def run(self) -> Iterator[TrainProgress]:
        """Train and report every step; closing the iterator writes a checkpoint first.

        Raises:
            TrainingStoppedError: the numbers say that going on is no use.
            ConfigError: a checkpoint cannot be written.
        """
        task, progress = self._task, self._progress
        if progress.step == 0:
            seed_all(self._settings.seed)
        if self._processes.is_first:
            self._logs = open_logs(self._settings, task.output_dir, progress.step)
        try:
            while progress.step < task.total_steps:
                with use_threads(self._threads):
                    loss, norm, rate = self._step()
                self._check(loss, norm)
                progress.loss_sum, progress.loss_steps = progress.loss_sum + loss, progress.loss_steps + 1
                progress.total_loss += loss
                metrics = self._log_and_evaluate(rate)
                if self._is_time(self._settings.save_strategy, "save_steps"):
                    self._save()
                report = TrainProgress(
                    progress.step, task.total_steps, loss, rate, checkpoint=self._saved, metrics=metrics
                )
                try:
                    yield report
                except GeneratorExit:  # the caller stops the job; the work since the last checkpoint is kept
                    self._save()
                    raise
            self._save()
        finally:
            for log in self._logs:
                log.close()
            if self._processes.is_first and progress.history:
                self._write_logs()

    def evaluate(self) -> float:
        """Return the mean loss on the validation rows; see `compute_mean_loss`."""
        size = self._settings.per_device_eval_batch_size
        task = self._task
        batches = [
            collate(task.evaluation[start : start + size], task.evaluation_lengths, task.pad_token_id)
            for start in range(0, len(task.evaluation), size)
        ]
        with use_threads(self._threads):
            return compute_mean_loss(
                task.network, task.trainable.encoder, batches, task.device, self._processes
            )

    def rehearse(self) -> tuple[float, int]:
        """Compute the gradients of the longest micro batch, drop them, and return its loss and its tokens."""
        order, examples = self._task.order, self._task.examples
        sizes = [
            max(len(examples[row].token_ids) for row in order.get_rows(number)) * len(order.get_rows(number))
            for number in range(order.per_epoch)
        ]
        longest = max(range(order.per_epoch), key=sizes.__getitem__)
        with use_threads(self._threads):
            loss = self._compute_micro_batch_loss(longest)
            self._scaler.scale(loss).backward()
        self._optimizer.zero_grad(set_to_none=True)
        return loss.item(), sizes[longest]

    def _step(self) -> tuple[float, float, float]:
        """Do one step; return its loss, the norm of its gradient and its learning rate."""
        task, step = self._task, self._progress.step
        rate, count = self._rate(step), task.micro_batches_per_step
        set_learning_rate(self._optimizer, rate)
        loss = torch.zeros((), device=task.device)
        first = step * count
        for number in range(first + self._processes.rank, first + count, self._processes.size):
            batch_loss = self._compute_micro_batch_loss(number)
            self._scaler.scale(batch_loss).backward()
            loss += batch_loss.detach()
        gradients = [value.grad for value in self._parameters if value.grad is not None]
        self._processes.sum([*gradients, loss])
        self._scaler.unscale_(self._optimizer)
        for gradient in gradients:
            gradient.div_(count)
        # Without a limit the norm is still wanted: it tells whether the gradient is finite.
        limit = self._settings.max_grad_norm or math.inf
        norm = torch.nn.utils.clip_grad_norm_(self._parameters, limit, error_if_nonfinite=False)
        scale = self._scaler.get_scale()
        norm_value = norm.item()
        if task.half and scale > 1 and not math.isfinite(norm_value) and math.isfinite(loss.item()):
            norm_value = 0.0  # the scaler leaves this step out and takes a smaller scale
        if math.isfinite(norm_value):
            self._scaler.step(self._optimizer)
            self._scaler.update()
        self._optimizer.zero_grad(set_to_none=True)
        self._progress.step += 1
        return loss.item() / count, norm_value, rate

    def _compute_micro_batch_loss(self, number: int) -> Tensor:
        task = self._task
        examples = [task.examples[index] for index in task.order.get_rows(number)]
        batch = collate(examples, task.lengths, task.pad_token_id)
        losses = compute_token_losses(
            task.network,
            batch.input_ids,
            batch.labels,
            task.device,
            task.trainable.encoder,
            dropout=self._settings.prefix_dropout,
            # By the number alone, so that a resumed job drops the same. Below 2**48, because it is multiplied
            # by the number of layers for dropout, and a generator's seed has 64 bits.
            seed=(self._settings.seed * 1_000_003 + number) % 2**48,
            label_smoothing=self._settings.label_smoothing_factor,
        )
        return losses.mean()

    def _check(self, loss: float, norm: float) -> None:
        try:
            self._guard.check(self._progress.step, loss, norm)
        except TrainingStoppedError as stopped:
            newest = self._checkpoints.find_newest()
            kept = (
                "No checkpoint was written before."
                if newest is None
                else f"The newest checkpoint is {newest}."
            )
            raise TrainingStoppedError(f"{stopped} {kept}") from stopped

    def _log_and_evaluate(self, rate: float) -> dict[str, float]:
        """Log what is due at this step, evaluate if it is time, and return the evaluation's metrics."""
        settings, progress = self._settings, self._progress
        first = settings.logging_first_step and progress.step == 1
        due = self._is_time(settings.logging_strategy, "logging_steps")
        last = progress.step == self._task.total_steps and settings.logging_strategy != "no"
        if (first or due or last) and progress.loss_steps:
            self._add({"loss": progress.loss_sum / progress.loss_steps, "learning_rate": rate})
            progress.loss_sum, progress.loss_steps = 0.0, 0
        if not self._is_time(settings.evaluation_strategy, "eval_steps") or not self._task.evaluation:
            return {}
        metrics = {"eval_loss": self.evaluate()}
        self._add(metrics)
        if progress.best_loss is None or metrics["eval_loss"] < progress.best_loss:
            progress.best_loss, progress.best_step = metrics["eval_loss"], progress.step
            if settings.load_best_model_at_end:
                self._save()
        return metrics

    def _add(self, values: Mapping[str, float]) -> None:
        step = self._progress.step
        self._progress.history.append({"epoch": self._epoch, "step": step, **values})
        for log in self._logs:
            log.add(step, values)

    @property
    def _epoch(self) -> float:
        done = self._progress.step * self._task.micro_batches_per_step
        return round(done / self._task.order.per_epoch, 4)

    def _is_time(self, strategy: str, setting: str) -> bool:
        """Return whether something is due; ``setting`` names how many steps apart it is with ``steps``."""
        step = self._progress.step
        if strategy == "steps":
            return step % self._settings.count_steps(setting, self._task.total_steps) == 0
        per_epoch, per_step = self._task.order.per_epoch, self._task.micro_batches_per_step
        return strategy == "epoch" and step * per_step // per_epoch > (step - 1) * per_step // per_epoch

    def _save(self) -> None:
        """Write a checkpoint of this step, unless there is one."""
        path = self._checkpoints.get_path(self._progress.step)
        if self._saved == path:
            return
        if self._processes.is_first:
            tensors, values = get_optimizer_state(self._optimizer)
            kept = {name: value for name, value in vars(self._progress).items() if name != "history"}
            random_tensors, random_values = get_random_state()
            self._checkpoints.save(
                self._progress.step,
                self._task.trainable.write,
                {**tensors, **random_tensors},
                {
                    "progress": kept,
                    "optimizer": values,
                    "guard": self._guard.get_state(),
                    "scaler": self._scaler.state_dict(),
                    "random": random_values,
                    "threads": self._threads,
                },
                self.build_trainer_state(),
            )
            best = self._progress.best_step if self._settings.load_best_model_at_end else None
            self._checkpoints.prune(None if best is None else self._checkpoints.get_path(best))
        self._saved = path

    def build_trainer_state(self) -> dict[str, Any]:
        """Return the content of ``trainer_state.json``."""
        progress, task = self._progress, self._task
        # Where the best one is not asked for it is not kept either, unless it was time for a checkpoint.
        is_kept = progress.best_step is not None and (
            self._settings.load_best_model_at_end or self._checkpoints.get_path(progress.best_step).is_dir()
        )
        best = f"checkpoint-{progress.best_step}" if is_kept else None
        return {
            "best_metric": progress.best_loss,
            "best_model_checkpoint": best,
            "epoch": self._epoch,
            "global_step": progress.step,
            "max_steps": task.total_steps,
            "num_train_epochs": math.ceil(
                task.total_steps * task.micro_batches_per_step / task.order.per_epoch
            ),
            "log_history": progress.history,
        }

    def _write_logs(self) -> None:
        try:
            write_trainer_state(self._task.output_dir, self.build_trainer_state())
            draw_losses(self._progress.history, self._task.output_dir / PLOT_FILE)
        except OSError as error:  # the checkpoints have the same numbers
            _log.warning(
                "the log cannot be written to %s: %s", self._task.output_dir, error.strerror or error
            )
