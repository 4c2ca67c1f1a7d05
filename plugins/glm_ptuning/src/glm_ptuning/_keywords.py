"""Names that the original's call took and that change nothing here, with the defaults they had.

The other names, which do something, are the fields of `_settings.TrainingSettings`. Together they are the
keywords of the original and every name of ``Seq2SeqTrainingArguments``, of transformers 4.27 and of 5.
"""

from __future__ import annotations

from typing import Any

# other spellings of a field: those of transformers 5, and those that 4.27 called deprecated
OTHER_NAMES = {
    "eval_strategy": "evaluation_strategy",
    "use_cpu": "no_cuda",
    "per_gpu_train_batch_size": "per_device_train_batch_size",
    "per_gpu_eval_batch_size": "per_device_eval_batch_size",
    "activation_checkpointing": "gradient_checkpointing",
}

# Only told about when they are given another value than this.
WITHOUT_EFFECT: dict[str, Any] = {
    # the original's own
    "config_name": None,
    "tokenizer_name": None,
    "cache_dir": None,
    "use_fast_tokenizer": True,
    "use_auth_token": False,
    "resize_position_embeddings": None,
    "lang": None,
    "dataset_name": None,
    "dataset_config_name": None,
    "overwrite_cache": None,  # nothing is cached
    "preprocessing_num_workers": None,
    "forced_bos_token": None,
    "trust_remote_code": None,  # no code is ever loaded with a model
    # Seq2SeqTrainingArguments of transformers 4.27
    "prediction_loss_only": False,
    "eval_accumulation_steps": None,
    "eval_delay": 0,
    "log_level": "passive",
    "log_level_replica": None,
    "log_on_each_node": True,
    "logging_nan_inf_filter": None,  # a loss that is not finite stops the job
    "save_on_each_node": False,
    "save_safetensors": None,  # always
    "use_mps_device": False,
    "jit_mode_eval": False,
    "use_ipex": False,
    "fp16_opt_level": "O1",
    "half_precision_backend": "auto",
    "fp16_backend": "auto",
    "bf16_full_eval": False,
    "fp16_full_eval": False,
    "tf32": None,
    "local_rank": -1,  # the environment says it
    "xpu_backend": None,
    "tpu_num_cores": None,
    "tpu_metrics_debug": False,
    "debug": "",
    "dataloader_num_workers": 0,
    "past_index": -1,
    "disable_tqdm": None,
    "remove_unused_columns": None,
    "label_names": None,
    "ignore_data_skip": False,
    "sharded_ddp": "",
    "fsdp": "",
    "fsdp_min_num_params": 0,
    "fsdp_config": None,
    "fsdp_transformer_layer_cls_to_wrap": None,
    "deepspeed": None,
    "optim_args": None,
    "group_by_length": False,
    "length_column_name": "length",
    "ddp_find_unused_parameters": None,
    "ddp_bucket_cap_mb": None,
    "dataloader_pin_memory": True,
    "skip_memory_metrics": True,
    "use_legacy_prediction_loop": False,
    "push_to_hub": False,
    "hub_model_id": None,
    "hub_strategy": "every_save",
    "hub_token": None,
    "hub_private_repo": None,
    "include_inputs_for_metrics": False,
    "push_to_hub_model_id": None,
    "push_to_hub_organization": None,
    "push_to_hub_token": None,
    "mp_parameters": "",
    "auto_find_batch_size": False,
    "full_determinism": False,
    "torchdynamo": None,
    "ray_scope": "last",
    "ddp_timeout": 1800,
    "torch_compile": False,
    "torch_compile_backend": None,
    "torch_compile_mode": None,
    "sortish_sampler": False,
    "generation_config": None,
    "generation_max_length": None,  # max_source_length + max_target_length + 1, as in the original
    "greater_is_better": None,  # the best checkpoint is that of the lowest loss
    # added up to transformers 5
    "accelerator_config": None,
    "activation_checkpointing_kwargs": None,
    "average_tokens_across_devices": None,
    "batch_eval_metrics": False,
    "dataloader_in_order": True,
    "dataloader_multiprocessing_context": None,
    "dataloader_persistent_workers": False,
    "dataloader_prefetch_factor": None,
    "ddp_backend": None,
    "ddp_broadcast_buffers": None,
    "ddp_static_graph": None,
    "enable_jit_checkpoint": False,
    "eval_do_concat_batches": True,
    "eval_on_start": False,
    "eval_use_gather_object": False,
    "gradient_checkpointing_kwargs": None,
    "hub_always_push": False,
    "hub_revision": None,
    "include_for_metrics": None,
    "include_num_input_tokens_seen": None,
    "liger_kernel_config": None,
    "neftune_noise_alpha": None,
    "optim_target_modules": None,
    "parallelism_config": None,
    "project": None,
    "restore_callback_states_from_checkpoint": False,
    "save_only_model": False,
    "torch_empty_cache_steps": None,
    "trackio_bucket_id": None,
    "trackio_space_id": None,
    "trackio_static_space_id": None,
    "train_sampling_strategy": "random",
    "use_cache": None,
    "use_liger_kernel": False,
}

# What else means the same as that value: nothing is lost by it, so nothing is told.
ALSO_WITHOUT_EFFECT: dict[str, tuple[Any, ...]] = {
    "overwrite_cache": (False,),
    "trust_remote_code": (False,),
    "log_level_replica": ("warning", "passive"),  # of transformers 5, of 4.27
    "logging_nan_inf_filter": (True,),
    "save_safetensors": (True,),
    "disable_tqdm": (False,),
    "remove_unused_columns": (True,),
    "hub_private_repo": (False,),
    "greater_is_better": (False,),
    "average_tokens_across_devices": (True,),
    "include_num_input_tokens_seen": (False, "no"),
    "include_for_metrics": ([],),
    "project": ("huggingface",),
    "fsdp": (None,),
    "use_cache": (False,),
}

# Asking for one of these in vain would give another job than the one that was meant.
REFUSED = {
    "dataset_name": "the rows come from files; pass train_file, validation_file or test_file",
    "push_to_hub": "nothing is uploaded; upload the checkpoint's directory yourself",
}

# What the two commands have options of their own for.
OF_THE_COMMANDS = {
    "model_name_or_path": "--model",
    "model_revision": "--revision",
    "no_cuda": "--device cpu",
    "fp16": "--dtype float16",
    "bf16": "--dtype bfloat16",
    "quantization_bit": "--quantize",
    "output_dir": "--output-dir",
}

OF_PREDICT = {**OF_THE_COMMANDS, "ptuning_checkpoint": "--adapter DIR"}

# What is done: each command does one of these, the Python call all that are true.
TASKS = {
    "do_train": "glm train trains, and glm predict does not",
    "do_predict": "glm predict answers; run it after glm train",
    "predict_with_generate": "run glm predict with the validation file after the training",
}

# Of the settings those that training does not use.
ONLY_FOR_ANSWERS = frozenset(
    {"test_file", "max_predict_samples", "num_beams", "generation_num_beams", "reference"}
)
# Of the settings those that prediction uses.
FOR_PREDICT = frozenset(
    {
        *("test_file", "prompt_column", "response_column", "history_column", "max_source_length"),
        *("max_target_length", "max_predict_samples", "source_prefix", "reference", "seed", "do_predict"),
        *("num_beams", "generation_num_beams"),
    }
)

# Of the names that the library has for optimisers those that are here, and what each is.
OPTIMIZERS = {
    "adamw": "adamw",
    "adamw_hf": "adamw",  # the library's own of long ago, with the same steps
    "adamw_torch": "adamw",
    "adamw_torch_fused": "adamw",
    "adafactor": "adafactor",
    "sgd": "sgd",
    "adagrad": "adagrad",
    "rmsprop": "rmsprop",
}
