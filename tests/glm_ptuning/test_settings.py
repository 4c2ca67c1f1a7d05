"""The keywords of the original's call: all are known, converted, checked."""

from __future__ import annotations

import dataclasses
import math
import typing

import pytest
import transformers
from glm_ptuning._keywords import ALSO_WITHOUT_EFFECT, OTHER_NAMES, REFUSED, WITHOUT_EFFECT
from glm_ptuning._settings import TrainingSettings, parse_settings
from glm_ptuning._train import parse_job_settings
from key_words import containing
from transformers.training_args import OptimizerNames

from glm_core import ConfigError

_KEYWORDS = """model_name_or_path ptuning_checkpoint config_name tokenizer_name cache_dir use_fast_tokenizer
model_revision use_auth_token resize_position_embeddings quantization_bit pre_seq_len prefix_projection lang
dataset_name dataset_config_name prompt_column response_column history_column train_file validation_file
test_file overwrite_cache preprocessing_num_workers max_source_length max_target_length
val_max_target_length pad_to_max_length max_train_samples max_eval_samples max_predict_samples num_beams
ignore_pad_token_for_loss source_prefix forced_bos_token"""
# Seq2SeqTrainingArguments of transformers 4.27
_ARGUMENTS_4_27 = """output_dir overwrite_output_dir do_train do_eval do_predict evaluation_strategy
prediction_loss_only per_device_train_batch_size per_device_eval_batch_size per_gpu_train_batch_size
per_gpu_eval_batch_size gradient_accumulation_steps eval_accumulation_steps eval_delay learning_rate
weight_decay adam_beta1 adam_beta2 adam_epsilon max_grad_norm num_train_epochs max_steps lr_scheduler_type
warmup_ratio warmup_steps log_level log_level_replica log_on_each_node logging_dir logging_strategy
logging_first_step logging_steps logging_nan_inf_filter save_strategy save_steps save_total_limit
save_on_each_node no_cuda use_mps_device seed data_seed jit_mode_eval use_ipex bf16 fp16 fp16_opt_level
half_precision_backend bf16_full_eval fp16_full_eval tf32 local_rank xpu_backend tpu_num_cores
tpu_metrics_debug debug dataloader_drop_last eval_steps dataloader_num_workers past_index run_name
disable_tqdm remove_unused_columns label_names load_best_model_at_end metric_for_best_model
greater_is_better ignore_data_skip sharded_ddp fsdp fsdp_min_num_params fsdp_config
fsdp_transformer_layer_cls_to_wrap deepspeed label_smoothing_factor optim optim_args adafactor
group_by_length length_column_name report_to ddp_find_unused_parameters ddp_bucket_cap_mb
dataloader_pin_memory skip_memory_metrics use_legacy_prediction_loop push_to_hub resume_from_checkpoint
hub_model_id hub_strategy hub_token hub_private_repo gradient_checkpointing include_inputs_for_metrics
fp16_backend push_to_hub_model_id push_to_hub_organization push_to_hub_token mp_parameters
auto_find_batch_size full_determinism torchdynamo ray_scope ddp_timeout torch_compile
torch_compile_backend torch_compile_mode sortish_sampler predict_with_generate generation_max_length
generation_num_beams generation_config"""
KEYWORDS, ARGUMENTS_4_27 = _KEYWORDS.split(), _ARGUMENTS_4_27.split()


def known() -> set[str]:
    return (
        {field.name for field in dataclasses.fields(TrainingSettings)}
        | set(OTHER_NAMES)
        | set(WITHOUT_EFFECT)
    )


def test_every_keyword_of_the_original_is_known() -> None:
    """Its own keywords and all training arguments of transformers 4.27 and 5 are used or listed as idle."""
    today = {field.name for field in dataclasses.fields(transformers.Seq2SeqTrainingArguments)}
    assert len(KEYWORDS) == 34
    assert len(ARGUMENTS_4_27) > 100
    assert {*KEYWORDS, *ARGUMENTS_4_27, *today} - known() == set()


def test_no_name_is_both_used_and_without_effect() -> None:
    """The two lists do not overlap, so what is said of a name is true."""
    assert {field.name for field in dataclasses.fields(TrainingSettings)} & set(WITHOUT_EFFECT) == set()
    assert set(OTHER_NAMES.values()) <= {field.name for field in dataclasses.fields(TrainingSettings)}


def test_defaults_are_the_original_ones() -> None:
    """Nothing said gives the published defaults."""
    settings = parse_settings({})
    assert (settings.max_source_length, settings.max_target_length) == (1024, 128)
    assert (settings.learning_rate, settings.num_train_epochs, settings.lr_scheduler_type) == (
        5e-5,
        3.0,
        "linear",
    )
    assert (settings.per_device_train_batch_size, settings.save_steps, settings.seed) == (8, 500, 42)
    assert settings.pre_seq_len is None
    assert settings.notices == ()


def test_text_is_taken_as_its_setting_wants_it() -> None:
    """Values of --set are text and become numbers, booleans, mappings or nothing."""
    settings = parse_settings(
        {
            "pre_seq_len": "16",
            "learning_rate": "2e-2",
            "prefix_projection": "True",
            "max_train_samples": "none",
            "lr_scheduler_kwargs": '{"power": 2}',
            "do_train": "yes",
            "report_to": "none",
        }
    )
    assert (settings.pre_seq_len, settings.learning_rate, settings.prefix_projection) == (16, 0.02, True)
    assert (settings.max_train_samples, settings.lr_scheduler_kwargs) == (None, {"power": 2})
    assert settings.report_to == ()


def test_newer_and_deprecated_spellings_mean_the_same() -> None:
    """eval_strategy, use_cpu and per_gpu_train_batch_size are the settings that they were renamed from."""
    settings = parse_settings({"eval_strategy": "steps", "use_cpu": True, "per_gpu_train_batch_size": 3})
    assert settings.evaluation_strategy == "steps"
    assert settings.no_cuda
    assert settings.per_device_train_batch_size == 3


def test_what_has_no_effect_is_said_once() -> None:
    """Names given their default or None are passed over; the others are one line."""
    settings = parse_settings({"torch_compile": True, "lang": None, "fsdp": "", "disable_tqdm": True})
    assert settings.notices == ("without effect here: disable_tqdm, torch_compile",)


def make_other_value(default: object) -> object:
    """A value of the same kind that means something else."""
    if isinstance(default, bool) or default is None:
        return not default
    return default + 1 if isinstance(default, int) else "other"


@pytest.mark.parametrize("name", WITHOUT_EFFECT)
def test_no_name_is_ignored_in_silence(name: str) -> None:
    """Whatever the name: another value than what is done anyway is told, or refused, as text too."""
    taken = (WITHOUT_EFFECT[name], *ALSO_WITHOUT_EFFECT.get(name, ()))
    other = next(value for value in (make_other_value(default) for default in taken) if value not in taken)
    for value in (other, str(other)):
        if name in REFUSED:
            with pytest.raises(ConfigError, match=name):
                parse_settings({name: value})
        else:
            assert parse_settings({name: value}).notices == (f"without effect here: {name}",)
    for value in (*taken, *map(str, taken), None, "none"):
        assert parse_settings({name: value}).notices == ()


def test_defaults_of_the_library_are_told_nowhere() -> None:
    """A program that passes all arguments with transformers' own defaults reads nothing about them."""
    defaults = {
        argument.name: argument.default
        for argument in dataclasses.fields(transformers.Seq2SeqTrainingArguments)
        if argument.name in WITHOUT_EFFECT and argument.default is not dataclasses.MISSING
    }
    assert len(defaults) > 50
    assert parse_settings(defaults).notices == ()


@pytest.mark.parametrize("name", [*OptimizerNames, "adamw_apex_fused", "adamw", "lion"])
def test_no_optimiser_becomes_another_one(name: str) -> None:
    """A name of the library is the optimiser that it means, or refused."""
    plain = getattr(name, "value", name)
    means = {"adamw_torch": "adamw", "adamw_torch_fused": "adamw"}.get(plain, plain)
    if means in ("adamw", "adafactor", "sgd", "adagrad", "rmsprop"):
        assert parse_settings({"optim": name}).optimizer == means
    else:
        with pytest.raises(ConfigError, match=containing("optim", plain)):
            parse_settings({"optim": name})


@pytest.mark.parametrize(
    ("value", "trackers"),
    [
        ("tensorboard", ("tensorboard",)),
        (["tensorboard"], ("tensorboard",)),
        ("none", ()),
        ([], ()),
        ("TensorBoard, none", ("tensorboard",)),
        (None, ("tensorboard",)),
    ],
)
def test_trackers_are_named_as_the_library_does(value: object, trackers: tuple[str, ...]) -> None:
    """One, several, all or none."""
    assert parse_settings({"report_to": value}).report_to == trackers


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ("wandb", ("wandb", "pip install wandb")),
        (["tensorboard", "comet_ml"], ("pip install comet-ml",)),
        ("tensorbord", ("tensorbord", "did you mean tensorboard")),
        ("azure_ml", ("azure_ml", "choose among", "mlflow")),
        (3, ("report_to", "3")),
        ([3], ("report_to",)),
    ],
)
def test_trackers_that_cannot_be_used_are_refused(
    value: object, words: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """None is left out in silence: who waits for numbers there should not wait in vain."""
    monkeypatch.setattr("glm_ptuning._trackers._is_installed", lambda name: False)
    with pytest.raises(ConfigError, match=containing(*words)):
        parse_settings({"report_to": value})


def test_all_trackers_are_those_that_are_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    """As with the library."""
    monkeypatch.setattr("glm_ptuning._trackers._is_installed", lambda name: name == "mlflow")
    assert parse_settings({"report_to": "all"}).report_to == ("tensorboard", "mlflow")


@pytest.mark.parametrize("name", ["eval_steps", "logging_steps", "save_steps", "warmup_steps"])
@pytest.mark.parametrize(
    ("value", "steps"), [(0.1, 3), ("0.25", 6), (0.9999, 21), (7, 7), ("8", 8), (9.0, 9)]
)
def test_steps_may_be_parts_of_the_job(name: str, value: object, steps: int) -> None:
    """Below 1, as in transformers 5: rounded up."""
    assert parse_settings({name: value}).count_steps(name, 21) == steps


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"learning_rat": 1}, "learning_rat is unknown; did you mean learning_rate?"),
        ({"zzzz": 1}, "zzzz is unknown; docs/ptuning.md lists the names"),
        ({"pre_seq_len": "many"}, "pre_seq_len must be an integer, got 'many'"),
        ({"pre_seq_len": 0}, "pre_seq_len must be at least 1, got 0"),
        ({"pre_seq_len": True}, "pre_seq_len must be an integer, got True"),
        ({"learning_rate": "fast"}, "learning_rate must be a finite number, got 'fast'"),
        ({"do_train": "maybe"}, "do_train must be true or false, got 'maybe'"),
        ({"prefix_dropout": 1.5}, "prefix_dropout must be at least 0 and less than 1, got 1.5"),
        ({"save_strategy": "best"}, "save_strategy must be one of no, steps, epoch, got 'best'"),
        ({"optim": "lion"}, "optim must be one of adamw, "),
        ({"fp16": True, "bf16": True}, "fp16 and bf16 are both asked for"),
        ({"quantization_bit": 4, "do_train": True}, "quantization_bit is for a frozen model"),
        ({"push_to_hub": True}, "push_to_hub cannot be used: nothing is uploaded"),
        ({"load_best_model_at_end": True}, "load_best_model_at_end needs evaluation_strategy"),
        ({"metric_for_best_model": "bleu"}, "metric_for_best_model must be loss"),
    ],
)
def test_wrong_settings_are_refused_in_one_sentence(given: dict[str, object], message: str) -> None:
    """Unknown names, wrong types and impossible values say what was given and what is expected."""
    with pytest.raises(ConfigError) as refused:
        parse_settings(given)
    assert message in str(refused.value)
    assert "\n" not in str(refused.value)


HINTS = typing.get_type_hints(TrainingSettings)
COUNTS = [name for name, hint in HINTS.items() if hint in (int, int | None)]
NUMBERS = [*COUNTS, *(name for name, hint in HINTS.items() if hint is float)]


@pytest.mark.parametrize(
    "value", ["1e999", "NaN", "-Infinity", math.nan, math.inf, 10**400, "1" + "0" * 5000]
)
@pytest.mark.parametrize("name", NUMBERS)
def test_numbers_that_are_none_are_refused(name: str, value: object) -> None:
    """Infinities, NaN and integers of thousands of digits, as text or not, in every number."""
    with pytest.raises(ConfigError, match=f"^{name} must be") as refused:
        parse_settings({name: value})
    assert len(str(refused.value)) < 200


@pytest.mark.parametrize("value", [10**12 * 10**12, 2**64, -(10**30)])
@pytest.mark.parametrize("name", COUNTS)
def test_counts_beyond_reason_are_refused(name: str, value: int) -> None:
    """What a slip of a digit gives is refused by its range, before anything of that size is made."""
    with pytest.raises(ConfigError, match=f"^{name} must be (at most|at least|4 or 8)"):
        parse_settings({name: value})


@pytest.mark.parametrize("text", ["[" * 100_000, '{"a":' * 100_000])
def test_deep_nesting_is_no_crash(text: str) -> None:
    """Text that would exhaust the parser's stack is refused like any other."""
    with pytest.raises(ConfigError, match="lr_scheduler_kwargs must be a mapping"):
        parse_settings({"lr_scheduler_kwargs": text})


def test_what_the_command_has_options_for_is_not_taken_twice() -> None:
    """--set fp16=true would say nothing: the option to use instead is named."""
    with pytest.raises(ConfigError, match=containing("fp16", "--dtype float16")):
        parse_job_settings({"fp16": "true"})
    with pytest.raises(ConfigError, match=containing("quantization_bit", "--quantize")):
        parse_job_settings({"quantization_bit": 4})


def test_a_prefix_of_length_zero_trains_all_weights() -> None:
    """On the command line 0 is what leaving pre_seq_len out is in Python."""
    assert parse_job_settings({"pre_seq_len": 0}).pre_seq_len is None
    assert parse_job_settings({"pre_seq_len": "0"}).pre_seq_len is None
    assert parse_job_settings({"pre_seq_len": 128}).pre_seq_len == 128
