"""The settings of a job: parses and checks every keyword of the original's call."""

from __future__ import annotations

import difflib
import json
import math
import types
import typing
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from glm_core.errors import ConfigError

from ._keywords import ALSO_WITHOUT_EFFECT, OPTIMIZERS, OTHER_NAMES, REFUSED, TASKS, WITHOUT_EFFECT
from ._trackers import choose_trackers

STRATEGIES = ("no", "steps", "epoch")
# What answers are scored against: the expected answer cut to max_target_length as the original cuts it, or
# all of it.
REFERENCES = ("cut", "full")
TRUE, FALSE = ("true", "1", "yes", "on"), ("false", "0", "no", "off")
NOTHING = ("", "none", "null")


@dataclass(frozen=True)
class TrainingSettings:
    """What a job is told. Names and defaults are the original's; ours are at the end.

    Each field is described in docs/ptuning.md.
    """

    model_name_or_path: str | None = None
    model_revision: str = "main"
    ptuning_checkpoint: str | None = None
    quantization_bit: int | None = None
    pre_seq_len: int | None = None
    prefix_projection: bool = False

    prompt_column: str | None = None
    response_column: str | None = None
    history_column: str | None = None
    train_file: str | None = None
    validation_file: str | None = None
    test_file: str | None = None
    max_source_length: int = 1024
    max_target_length: int = 128
    val_max_target_length: int | None = None
    pad_to_max_length: bool = False
    max_train_samples: int | None = None
    max_eval_samples: int | None = None
    max_predict_samples: int | None = None
    num_beams: int | None = None
    ignore_pad_token_for_loss: bool = True
    source_prefix: str = ""

    output_dir: str = "trainer_output"
    overwrite_output_dir: bool = False
    do_train: bool = False
    do_eval: bool = False
    do_predict: bool = False
    resume_from_checkpoint: str | None = None
    seed: int = 42
    data_seed: int | None = None
    no_cuda: bool = False
    fp16: bool = False
    bf16: bool = False
    gradient_checkpointing: bool = False

    per_device_train_batch_size: int = 8
    per_device_eval_batch_size: int = 8
    gradient_accumulation_steps: int = 1
    dataloader_drop_last: bool = False
    num_train_epochs: float = 3.0
    max_steps: int = -1

    learning_rate: float = 5e-5
    lr_scheduler_type: str = "linear"
    lr_scheduler_kwargs: Mapping[str, Any] | None = None
    warmup_ratio: float = 0.0
    warmup_steps: int | float = 0
    optim: str = "adamw_torch"
    adafactor: bool = False
    weight_decay: float = 0.0
    adam_beta1: float = 0.9
    adam_beta2: float = 0.999
    adam_epsilon: float = 1e-8
    max_grad_norm: float = 1.0
    label_smoothing_factor: float = 0.0

    evaluation_strategy: str = "no"
    eval_steps: int | float | None = None
    logging_strategy: str = "steps"
    logging_steps: int | float = 500
    logging_first_step: bool = False
    logging_dir: str | None = None
    report_to: tuple[str, ...] = ("tensorboard",)
    run_name: str | None = None
    save_strategy: str = "steps"
    save_steps: int | float = 500
    save_total_limit: int | None = None
    load_best_model_at_end: bool = False
    metric_for_best_model: str | None = None

    predict_with_generate: bool = False
    generation_num_beams: int | None = None

    reference: str = "cut"
    dry_run: bool = False
    prefix_dropout: float = 0.1
    replay_file: str | None = None
    replay_share: float = 0.1
    stop_on_divergence: bool = True

    idle: tuple[str, ...] = field(default=(), compare=False)  # names that were given and have no effect

    def __post_init__(self) -> None:
        for name, (least, most) in _RANGES.items():
            value = getattr(self, name)
            if name in _STEPS and value is not None and 0 < value < 1:
                continue
            if value is not None and value < least:
                raise ConfigError(f"{name} must be at least {least}, got {_format(value)}")
            if value is not None and value > most:
                raise ConfigError(f"{name} must be at most {most:,}, got {_format(value)}")
        for name in _FRACTIONS:
            if not 0 <= getattr(self, name) < 1:
                raise ConfigError(f"{name} must be at least 0 and less than 1, got {getattr(self, name)}")
        for name in ("evaluation_strategy", "logging_strategy", "save_strategy"):
            if getattr(self, name) not in STRATEGIES:
                raise ConfigError(
                    f"{name} must be one of {', '.join(STRATEGIES)}, got {getattr(self, name)!r}"
                )
        if self.optim.lower() not in OPTIMIZERS:
            raise ConfigError(f"optim must be one of {', '.join(OPTIMIZERS)}, got {_format(self.optim)}")
        if self.reference not in REFERENCES:
            raise ConfigError(f"reference must be one of {', '.join(REFERENCES)}, got {self.reference!r}")
        if self.fp16 and self.bf16:
            raise ConfigError("fp16 and bf16 are both asked for; choose one")
        if self.quantization_bit not in (None, 4, 8):
            raise ConfigError(f"quantization_bit must be 4 or 8, got {_format(self.quantization_bit)}")
        if self.quantization_bit is not None and self.pre_seq_len is None and self.do_train:
            raise ConfigError(
                "quantization_bit is for a frozen model: pass pre_seq_len too, such as 128, or leave it out"
            )
        if self.metric_for_best_model not in (None, "loss", "eval_loss"):
            raise ConfigError(f"metric_for_best_model must be loss, got {self.metric_for_best_model!r}")
        if self.load_best_model_at_end and self.evaluation_strategy == "no":
            raise ConfigError("load_best_model_at_end needs evaluation_strategy steps or epoch")

    @property
    def notices(self) -> tuple[str, ...]:
        """Return what a user should know of these settings."""
        return (f"without effect here: {', '.join(self.idle)}",) if self.idle else ()

    @property
    def optimizer(self) -> str:
        """Return the optimiser's name; the library's several spellings of AdamW are one."""
        return "adafactor" if self.adafactor else OPTIMIZERS[self.optim.lower()]

    def count_steps(self, name: str, total_steps: int) -> int:
        """Return a setting that counts steps; what is below 1 is a part of the job's, rounded up.

        Args:
            name: ``eval_steps``, which is ``logging_steps`` where it is not given, or another one.
            total_steps: of the job.
        """
        value = getattr(self, name)
        if value is None:
            return self.count_steps("logging_steps", total_steps)
        return math.ceil(value * total_steps) if 0 < value < 1 else int(value)


# Above these no job could end or fit; without a limit a slip of a digit asks for terabytes, or gives a number
# that the libraries below cannot hold.
_MAX_COUNT = 10**9
_MAX_TOKENS = 2**20
_MAX_SEED = 2**63 - 1  # what torch's generators take

# From 0 to less than 1: with a beta of 1 the optimiser's averages would never move.
_FRACTIONS = (
    *("warmup_ratio", "label_smoothing_factor", "prefix_dropout", "replay_share"),
    *("adam_beta1", "adam_beta2"),
)

# Numbers of steps that may be parts of the whole job instead, as transformers 5 takes them.
_STEPS = ("eval_steps", "logging_steps", "save_steps", "warmup_steps")

# Lengths below 4 would leave no token of the text beside the special tokens of a row.
_RANGES: Mapping[str, tuple[float, float]] = {
    "pre_seq_len": (1, _MAX_TOKENS),
    "max_source_length": (4, _MAX_TOKENS),
    "max_target_length": (4, _MAX_TOKENS),
    "val_max_target_length": (4, _MAX_TOKENS),
    "max_train_samples": (1, _MAX_COUNT),
    "max_eval_samples": (1, _MAX_COUNT),
    "max_predict_samples": (1, _MAX_COUNT),
    "num_beams": (1, _MAX_COUNT),
    "seed": (0, _MAX_SEED),
    "data_seed": (0, _MAX_SEED),
    "per_device_train_batch_size": (1, _MAX_COUNT),
    "per_device_eval_batch_size": (1, _MAX_COUNT),
    "gradient_accumulation_steps": (1, _MAX_COUNT),
    "num_train_epochs": (0, _MAX_COUNT),
    "max_steps": (-1, _MAX_COUNT),  # 0 and the library's -1 count epochs instead
    "learning_rate": (0, math.inf),
    "warmup_steps": (0, _MAX_COUNT),
    "weight_decay": (0, math.inf),
    "adam_epsilon": (0, math.inf),
    "max_grad_norm": (0, math.inf),
    "eval_steps": (1, _MAX_COUNT),
    "logging_steps": (1, _MAX_COUNT),
    "save_steps": (1, _MAX_COUNT),
    "save_total_limit": (1, _MAX_COUNT),
    "generation_num_beams": (1, _MAX_COUNT),
}
_TYPES = {name: hint for name, hint in typing.get_type_hints(TrainingSettings).items() if name != "idle"}


def parse_settings(given: Mapping[str, Any], unused: Collection[str] = ()) -> TrainingSettings:
    """Return settings from keywords; text, as a command line gives it, is converted to its field's type.

    Args:
        given: the keywords.
        unused: names of settings that the caller does not use; which of them are given is told.

    Raises:
        ConfigError: a name is unknown, or a value cannot be used.
    """
    values: dict[str, Any] = {}
    idle: list[str] = []
    for name, value in given.items():
        known = OTHER_NAMES.get(name, name)
        if known in _TYPES:
            converted = _convert(name, value, _TYPES[known])
            if converted is not None:  # what may be absent is so by default
                values[known] = converted
        elif name not in WITHOUT_EFFECT:
            raise ConfigError(f"{name} is unknown{_suggest_name(name)}")
        elif not _is_default(name, value):
            if name in REFUSED:
                raise ConfigError(f"{name} cannot be used: {REFUSED[name]}")
            idle.append(name)
    idle += [name for name in given if OTHER_NAMES.get(name, name) in unused]
    return TrainingSettings(**values, idle=tuple(sorted(idle)))


def refuse_names(given: Mapping[str, Any], options: Mapping[str, str], task: str) -> None:
    """Refuse what a command does not take with ``--set``, since without it another job would be done.

    Args:
        given: names and values.
        options: names that the command has options of its own for, and these.
        task: ``do_train`` or ``do_predict``, whichever the command does.

    Raises:
        ConfigError: naming the option, or what to do instead.
    """
    for name, value in given.items():
        option = options.get(OTHER_NAMES.get(name, name))
        if option is not None:
            raise ConfigError(f"{name} is set by an option of the command; pass {option} instead")
        if name in TASKS and (str(value).strip().lower() in TRUE) != (name == task):
            raise ConfigError(f"{name}={value} cannot be used here: {TASKS[name]}")


def list_settings(settings: TrainingSettings) -> dict[str, Any]:
    """Return all settings by name, as JSON holds them."""
    return {
        name.name: convert_for_json(getattr(settings, name.name))
        for name in fields(settings)
        if name.name != "idle"
    }


def convert_for_json(value: Any) -> Any:
    """Return a setting's value as JSON gives it back."""
    return dict(value) if isinstance(value, Mapping) else list(value) if isinstance(value, tuple) else value


def _is_default(name: str, value: Any) -> bool:
    """Return whether a value asks for what is done anyway; as text, which a command line gives, too."""
    value = getattr(value, "value", value)  # the library's enumerations
    accepted = (WITHOUT_EFFECT[name], *ALSO_WITHOUT_EFFECT.get(name, ()))
    if value is None or (isinstance(value, str) and value.strip().lower() in NOTHING):
        return True
    if not isinstance(value, str):
        return any(type(value) is type(item) and value == item for item in accepted)
    text = value.strip().lower()
    spellings = {True: TRUE, False: FALSE}
    return any(
        text in (spellings[item] if isinstance(item, bool) else (str(item).lower(),)) for item in accepted
    )


def _suggest_name(name: str) -> str:
    close = difflib.get_close_matches(name, [*_TYPES, *OTHER_NAMES, *WITHOUT_EFFECT], n=1)
    return f"; did you mean {close[0]}?" if close else "; docs/ptuning.md lists the names"


def _convert(name: str, value: Any, hint: Any) -> Any:
    """Return a value converted to its field's type."""
    if name == "report_to":
        return None if value is None else choose_trackers(value)
    kind = typing.get_args(hint)[0] if isinstance(hint, types.UnionType) else hint
    if value is None or (isinstance(value, str) and kind is not str and value.strip().lower() in NOTHING):
        return None
    if isinstance(value, str) and kind is not str:
        value = _parse_text(value.strip(), kind)
    if name == "resume_from_checkpoint" and isinstance(value, bool):
        return None  # a job in its directory is resumed anyway
    value = getattr(value, "value", value)  # the library's enumerations
    if kind is float and type(value) is int:
        try:
            value = float(value)
        except OverflowError:  # an integer of more than 308 digits
            value = math.inf
    if name in _STEPS and type(value) is float and 0 < value < 1:
        return value
    if kind is int and type(value) is float and value.is_integer():
        value = int(value)
    if kind is str and hasattr(value, "__fspath__"):
        value = str(value)
    expected = dict if typing.get_origin(kind) is not None else kind
    if type(value) is not expected or (isinstance(value, float) and not math.isfinite(value)):
        raise ConfigError(f"{name} must be {_EXPECTED[expected]}, got {_format(value)}")
    return value


_EXPECTED = {
    bool: "true or false",
    int: "an integer",
    float: "a finite number",
    str: "text",
    dict: "a mapping",
}


def _parse_text(text: str, kind: Any) -> Any:
    if kind is bool and text.lower() in (*TRUE, *FALSE):
        return text.lower() in TRUE
    if kind is not bool:
        try:
            return float(text) if kind is float else json.loads(text)
        except (ValueError, RecursionError):
            pass
    return text  # because the caller refuses it and names what is expected


def _format(value: Any) -> str:
    """Return a value as a message shows it, cut to a readable length."""
    try:
        text = repr(value)
    except ValueError:  # Python prints no integer of more than 4,300 digits
        return f"an integer of about {int(value.bit_length() * math.log10(2)):,} digits"
    return text if len(text) <= 60 else f"{text[:60]}..."
