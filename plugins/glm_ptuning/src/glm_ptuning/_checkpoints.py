"""The checkpoints of a job: each is written beside its place and renamed, so it is complete or absent.

``checkpoint-N`` holds what is trained (a prefix: about a thousandth of the model), the optimiser's tensors,
and two JSON files: ``trainer_state.json`` for people and tools, ``training_state.json`` for going on.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from glm_hub.verify import verify_files
from glm_runtime_torch.training import flush_directory, write_checksums, write_tensors, write_text
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from glm_core.errors import CheckpointError, ConfigError, GlmError

OPTIMIZER_FILE = "optimizer.safetensors"
STATE_FILE = "training_state.json"
TRAINER_STATE_FILE = "trainer_state.json"
MANIFEST = "complete.json"

# What reading values of wrong types and shapes raises; RuntimeError is torch's, and that of too deep nesting.
DAMAGE = (KeyError, IndexError, TypeError, ValueError, AttributeError, RuntimeError, OverflowError)

_NAME = re.compile(r"checkpoint-(\d+)")
_UNFINISHED, _DELETED = "unfinished-", "deleted-"


@dataclass(frozen=True)
class SavedState:
    """What a checkpoint holds beside the weights.

    Attributes:
        path: its directory.
        step: steps done.
        tensors: of the optimiser and the random generators, by name.
        state: whatever else the training must know.
        trainer_state: what ``trainer_state.json`` says.
    """

    path: Path
    step: int
    tensors: Mapping[str, Tensor]
    state: Mapping[str, Any]
    trainer_state: Mapping[str, Any]


class Checkpoints:
    """The checkpoints in an output directory.

    Args:
        output_dir: where they are.
        limit: keep that many; ``None`` = all.
    """

    def __init__(self, output_dir: Path, limit: int | None = None) -> None:
        self.output_dir = output_dir
        self._limit = limit

    def get_path(self, step: int) -> Path:
        """Return the directory for the checkpoint of a step, which need not exist."""
        return self.output_dir / f"checkpoint-{step}"

    def list_steps(self) -> list[int]:
        """Return the steps that have a complete checkpoint, in order."""
        return sorted(step for step, path in self._list_all().items() if is_complete(path))

    def find_newest(self) -> Path | None:
        """Return the newest complete checkpoint."""
        steps = self.list_steps()
        return self.get_path(steps[-1]) if steps else None

    def tidy(self) -> list[str]:
        """Remove what a killed job left behind; return a notice for each directory that is ignored."""
        notices = []
        for path in sorted(self.output_dir.glob(f"{_DELETED}*")):
            shutil.rmtree(path, ignore_errors=True)
        for path in sorted(self.output_dir.glob(f"{_UNFINISHED}checkpoint-*")):
            shutil.rmtree(path, ignore_errors=True)
            notices.append(f"{path.name.removeprefix(_UNFINISHED)} was not finished and is left out")
        notices += [
            f"{path.name} is incomplete and is left out"
            for path in self._list_all().values()
            if not is_complete(path)
        ]
        return notices

    def save(
        self,
        step: int,
        write_model: Callable[[Path], None],
        tensors: Mapping[str, Tensor],
        state: Mapping[str, Any],
        trainer_state: Mapping[str, Any],
    ) -> Path:
        """Write the checkpoint of a step.

        Args:
            step: steps done.
            write_model: writes what is trained into a directory.
            tensors: see `SavedState`.
            state: likewise; what JSON can hold.
            trainer_state: likewise.

        Raises:
            ConfigError: it cannot be written; nothing that was there is lost.
        """
        final, unfinished = self.get_path(step), self.output_dir / f"{_UNFINISHED}checkpoint-{step}"
        try:
            shutil.rmtree(unfinished, ignore_errors=True)
            unfinished.mkdir(parents=True)
            write_model(unfinished)
            write_tensors(unfinished / OPTIMIZER_FILE, tensors)
            write_text(unfinished / STATE_FILE, json.dumps({"step": step, **state}))
            write_text(unfinished / TRAINER_STATE_FILE, format_json(trainer_state))
            # Of all files, the optimiser's too: a job must not be resumed from bits that a disk has changed.
            write_checksums(unfinished, [path.name for path in unfinished.iterdir()])
            # Written last: a directory without it is one that was not finished.
            sizes = {path.name: path.stat().st_size for path in sorted(unfinished.iterdir())}
            write_text(unfinished / MANIFEST, format_json({"step": step, "files": sizes}))
            # Before the rename, or a power cut could keep the name and lose the files.
            flush_directory(unfinished)
            self._remove(final)
            os.replace(unfinished, final)
            flush_directory(self.output_dir)
        except (OSError, GlmError) as error:
            shutil.rmtree(unfinished, ignore_errors=True)
            # A full disk comes as OSError, or inside the error of the function that writes the model.
            cause = error if isinstance(error, OSError) else error.__cause__
            if not isinstance(cause, OSError):
                raise
            kept = self.find_newest()
            there = "no earlier one is there" if kept is None else f"{kept.name} is complete and kept"
            raise ConfigError(
                f"the checkpoint of step {step} cannot be written to {self.output_dir}: "
                f"{cause.strerror or cause}; {there}. Make room there and run the same command again."
            ) from error
        return final

    def prune(self, keep: Path | None = None) -> None:
        """Delete the oldest checkpoints beyond the limit, but not ``keep``."""
        if self._limit is None:
            return
        # ``keep`` is one of those that may stay, so one fewer of the others does; the newest always stays.
        steps = [step for step in self.list_steps() if self.get_path(step) != keep]
        spare = len(steps) - max(self._limit - (keep is not None and keep.is_dir()), 1)
        for step in steps[: max(spare, 0)]:
            self._remove(self.get_path(step))

    def clear(self) -> None:
        """Delete all of them."""
        for path in self._list_all().values():
            self._remove(path)

    def _list_all(self) -> dict[int, Path]:
        """Return everything that is named like a checkpoint, complete or not, by its step."""
        if not self.output_dir.is_dir():
            return {}
        return {
            int(match[1]): path
            for path in sorted(self.output_dir.iterdir())
            if (match := _NAME.fullmatch(path.name)) and path.is_dir()
        }

    def _remove(self, path: Path) -> None:
        """Delete a checkpoint; a kill in between never leaves a part of one under its name."""
        if path.exists():
            doomed = self.output_dir / f"{_DELETED}{path.name}"
            shutil.rmtree(doomed, ignore_errors=True)
            os.replace(path, doomed)  # first renamed, because deleting a directory is not one step
            shutil.rmtree(doomed, ignore_errors=True)


def is_complete(path: Path) -> bool:
    """Return whether every file of a checkpoint exists with the size that it was written with."""
    try:
        sizes = json.loads((path / MANIFEST).read_text("utf-8"))["files"]
        return all((path / name).stat().st_size == size for name, size in sizes.items())
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return False


def read_checkpoint(path: Path) -> SavedState:
    """Return what a checkpoint holds beside the weights.

    Every file is read and compared with its hash first, since a wrong weight or learning rate would only be
    noticed hours later, or never.

    Raises:
        ConfigError: it is damaged.
    """
    try:
        verify_files(path)
        state = json.loads((path / STATE_FILE).read_text("utf-8"))
        trainer_state = json.loads((path / TRAINER_STATE_FILE).read_text("utf-8"))
        tensors = load_file(path / OPTIMIZER_FILE)
        saved = SavedState(path, state["step"], tensors, state, trainer_state)
    except (OSError, SafetensorError, CheckpointError, *DAMAGE) as error:
        raise build_damage_error(path, error) from error
    if not isinstance(saved.step, int) or path.name != f"checkpoint-{saved.step}":
        raise build_damage_error(path, ValueError(f"{STATE_FILE} is of another step"))
    return saved


def build_damage_error(path: Path, error: Exception) -> ConfigError:
    """Return what to tell a user whose checkpoint cannot be resumed."""
    reason = f"{error} is missing" if isinstance(error, KeyError) else str(error)
    return ConfigError(
        f"{path} is damaged ({' '.join(reason.split())[:400]}); delete this directory, and the job goes on "
        "from an earlier one"
    )


def format_json(content: Mapping[str, Any]) -> str:
    """Return JSON as a person reads it."""
    return json.dumps(content, ensure_ascii=False, indent=2) + "\n"
