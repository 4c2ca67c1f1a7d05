"""Which job an output directory belongs to: a file there lists everything that decides the job's result."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import filelock
from glm_hub.model_files import WEIGHT_FORMS
from glm_runtime_torch.training import is_same_base, write_text

from glm_core.config import expand
from glm_core.errors import ConfigError

from ._checkpoints import Checkpoints, format_json
from ._settings import TrainingSettings, convert_for_json, list_settings

JOB_FILE = "glm_training.json"
LOCK_FILE = ".training.lock"
FORMAT_VERSION = 1
BASE = "base model"

# Names of TrainingSettings that decide neither what is trained nor what the log says: a job that is resumed
# may change them.
_FREE = frozenset(
    {
        *(
            "output_dir",
            "overwrite_output_dir",
            "do_train",
            "do_eval",
            "do_predict",
            "resume_from_checkpoint",
        ),
        *("model_name_or_path", "model_revision", "ptuning_checkpoint", "quantization_bit"),
        *(
            "train_file",
            "validation_file",
            "test_file",
            "replay_file",
            "idle",
            "dry_run",
            "no_cuda",
            "fp16",
            "bf16",
        ),
        *("save_strategy", "save_steps", "save_total_limit", "logging_dir", "report_to", "run_name"),
        *(
            "per_device_eval_batch_size",
            "max_predict_samples",
            "reference",
            "num_beams",
            "predict_with_generate",
        ),
        *("generation_num_beams", "gradient_accumulation_steps"),
        *("stop_on_divergence", "gradient_checkpointing", "num_train_epochs", "max_steps"),
    }
)


# What decides the log or how long the job goes on, but not the steps that are done: a job may go on with
# another one.
_CONTINUED = frozenset(
    {
        *("total steps", "logging_strategy", "logging_steps", "logging_first_step", "evaluation_strategy"),
        *("eval_steps", "content of validation_file", "max_eval_samples", "val_max_target_length"),
        *("load_best_model_at_end", "metric_for_best_model"),
    }
)


@dataclass(frozen=True)
class JobInputs:
    """What a job works on, beside its settings.

    Attributes:
        base: fingerprint of the frozen model's weights.
        dtype: of the frozen weights.
        scheme: how they are quantised; ``"none"`` = not.
        micro_batches_per_step: passes whose gradients make one step, of all processes together.
        total_steps: of the whole job.
    """

    base: str
    dtype: str
    scheme: str
    micro_batches_per_step: int
    total_steps: int


def identify_job(settings: TrainingSettings, inputs: JobInputs) -> dict[str, Any]:
    """Return what decides a job's result, by name; two jobs with the same are one."""
    decided = {name.name: getattr(settings, name.name) for name in fields(settings) if name.name not in _FREE}
    files = {
        name: hash_contents(getattr(settings, name))
        for name in ("train_file", "replay_file", "ptuning_checkpoint")
    }
    if settings.evaluation_strategy != "no":
        files["validation_file"] = hash_contents(settings.validation_file)
    return {
        **{name: convert_for_json(value) for name, value in decided.items()},
        **{f"content of {name}": digest for name, digest in files.items()},
        BASE: inputs.base,
        "dtype": inputs.dtype,
        "quantisation": inputs.scheme,
        "micro batches per step": inputs.micro_batches_per_step,
        "total steps": inputs.total_steps,
    }


@contextlib.contextmanager
def lock_directory(output_dir: Path) -> Iterator[None]:
    """Keep other processes out of an output directory meanwhile; the system lifts the lock of a killed one.

    Raises:
        ConfigError: another process is training there, or the directory cannot be written.
    """
    lock = filelock.FileLock(output_dir / LOCK_FILE)
    try:
        output_dir.mkdir(parents=True, exist_ok=True)
        lock.acquire(timeout=0)
    except filelock.Timeout:
        raise ConfigError(
            f"another process is training in {output_dir}; wait for it, or choose another output_dir"
        ) from None
    except OSError as error:
        raise _build_write_error(output_dir, error) from error
    try:
        yield
    finally:
        lock.release()
        Path(lock.lock_file).unlink(missing_ok=True)


def check_apart(output_dir: Path, settings: TrainingSettings, model: Path | None) -> None:
    """Refuse an output directory in which the job would write among, or delete, what it reads.

    Raises:
        ConfigError: it is the model's own, or ``overwrite_output_dir`` would delete what the job reads.
    """
    there = Path(os.path.realpath(output_dir))
    read = {
        "ptuning_checkpoint": settings.ptuning_checkpoint,
        "train_file": settings.train_file,
        "validation_file": settings.validation_file,
        "replay_file": settings.replay_file,
    }
    sources = {name: Path(os.path.realpath(expand(path))) for name, path in read.items() if path}
    if model is not None:
        sources["model"] = Path(os.path.realpath(model))
    if sources.get("model") == there:
        raise ConfigError(
            f"output_dir {output_dir} is the model itself, among whose files the trained ones would stand; "
            "choose another directory"
        )
    for name, path in sources.items() if settings.overwrite_output_dir else ():
        if path == there or _is_in_checkpoint(path, there):
            raise ConfigError(
                f"overwrite_output_dir would delete the checkpoints in {output_dir}, and {name} {path} is "
                "one of them or in one; choose another output_dir"
            )


def _is_in_checkpoint(path: Path, output_dir: Path) -> bool:
    return path.is_relative_to(output_dir) and path.relative_to(output_dir).parts[0].startswith("checkpoint-")


def claim(
    output_dir: Path, identity: Mapping[str, Any], settings: TrainingSettings, *, overwrite: bool
) -> list[str]:
    """Take an output directory for this job and return notices for the user.

    A dry run only looks.

    Raises:
        ConfigError: it is another job's, naming what differs, or cannot be written.
    """
    notices: list[str] = []
    checkpoints = Checkpoints(output_dir)
    try:
        found = _read(output_dir / JOB_FILE)
        strange = found is None and any(output_dir.glob("checkpoint-*"))
        old = identity if found is None else found
        changed = [
            name for name in {**identity, **old} if not _is_same(name, old.get(name), identity.get(name))
        ]
        if found is not None and is_same_base(str(old.get(BASE)), identity[BASE]) is None:
            notices.append(
                "whether the matrices of the base model are the same cannot be told; its biases and norms are"
            )
        differences = [_format_difference(name, old, identity) for name in changed if name not in _CONTINUED]
        done, total = max(checkpoints.list_steps(), default=0), identity["total steps"]
        if done > total:
            differences.append(f"it has {done} steps, and {total} are asked for")
        if (differences or strange) and not overwrite:
            why = "; ".join(differences) or f"there is no {JOB_FILE} beside its checkpoints"
            raise ConfigError(
                f"{output_dir} holds another job: {why}. Choose another output_dir, or pass "
                "overwrite_output_dir to delete its checkpoints."
            )
        if differences or strange:
            verb = "would be" if settings.dry_run else "were"
            notices.append(f"the checkpoints of another job in {output_dir} {verb} deleted")
        elif changed and done:
            listed = "; ".join(_format_difference(name, old, identity) for name in changed)
            # A rate that falls towards the end falls towards another one now.
            rates = ", and learning rates follow the new number of steps" if "total steps" in changed else ""
            notices.append(f"this job goes on with other settings: {listed}{rates}")
        if settings.dry_run:
            return notices
        if differences or strange:
            checkpoints.clear()
        output_dir.mkdir(parents=True, exist_ok=True)
        content = {
            "format_version": FORMAT_VERSION,
            "identity": identity,
            "settings": list_settings(settings),
        }
        write_text(output_dir / JOB_FILE, format_json(content))
        return notices + checkpoints.tidy()
    except OSError as error:
        raise _build_write_error(output_dir, error) from error


def hash_contents(path: str | None) -> str | None:
    """Return a hash of a file or of the weights in an adapter's directory; ``None`` for ``None``."""
    if path is None:
        return None
    place = Path(path).expanduser()
    weights = (file for form in WEIGHT_FORMS for file in sorted(place.rglob(form.pattern)))
    files = [place] if place.is_file() else weights
    digest = hashlib.sha256()
    for file in files:
        try:
            with file.open("rb") as content:
                digest.update(hashlib.file_digest(content, "sha256").digest())
        except OSError as error:
            raise ConfigError(f"{file} cannot be read: {error.strerror or error}") from error
    return digest.hexdigest()[:16]  # 64 bits tell files apart that are not made to be mistaken


def _build_write_error(output_dir: Path, error: OSError) -> ConfigError:
    return ConfigError(
        f"output_dir {output_dir} cannot be written: {error.strerror or error}; choose another directory"
    )


def _read(path: Path) -> dict[str, Any] | None:
    try:
        content = json.loads(path.read_text("utf-8"))["identity"]
    except (FileNotFoundError, ValueError, KeyError, TypeError, RecursionError):
        return None
    return content if isinstance(content, dict) else None


def _is_same(name: str, old: Any, new: Any) -> bool:
    return is_same_base(str(old), str(new)) is not False if name == BASE else old == new


def _format_difference(name: str, found: Mapping[str, Any], identity: Mapping[str, Any]) -> str:
    if name.startswith(("content of", "base")):
        return f"its {name} differs"
    return f"its {name} is {found.get(name)}, not {identity.get(name)}"
