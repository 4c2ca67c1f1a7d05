"""What ``glm train ptuning`` takes beside ``--set``; the defaults are those of the published recipe."""

from __future__ import annotations

from glm_core.records import Option

TRAIN_OPTIONS = (
    Option("train_file", "rows to learn: JSON, JSON Lines or CSV"),
    Option("prompt_column", "column of the question"),
    Option("response_column", "column of the answer"),
    Option("history_column", "column of earlier questions and answers"),
    Option("max_source_length", "tokens of the question at most; more are cut off", int, 1024),
    Option("max_target_length", "tokens of the answer at most; more are cut off", int, 128),
    Option("max_train_samples", "learn only that many rows", int),
    Option("pre_seq_len", "positions of the prefix; 0 trains all weights of the model instead", int, 128),
    Option("prefix_projection", "make the prefix by a small network", bool, False),
    Option("ptuning_checkpoint", "a trained prefix to start from"),
    Option("learning_rate", "of the first step; it falls to 0 towards the end", float, 2e-2),
    Option("max_steps", "steps of the whole job; leave it out to count epochs", int),
    Option("num_train_epochs", "how often every row is seen, without --max-steps", float, 3.0),
    Option("per_device_train_batch_size", "rows that pass at a time", int, 1),
    Option("gradient_accumulation_steps", "passes that make one step", int, 16),
    Option("gradient_checkpointing", "less memory, more time", bool, False),
    Option("logging_steps", "steps between two entries of the log", int, 10),
    Option("save_steps", "steps between two checkpoints", int, 100),
    Option("save_total_limit", "keep that many checkpoints", int),
    Option("evaluation_strategy", "evaluate: no, steps or epoch", str, "no"),
    Option("eval_steps", "steps between two evaluations (logging_steps)", int),
    Option("validation_file", "rows to evaluate on"),
    Option("replay_file", "rows that the model shall not forget"),
    Option("replay_share", "of the rows of an epoch, how many are replayed", float, 0.1),
    Option("seed", "of the order of rows, the prefix and what dropout drops", int, 42),
    Option(
        "dry_run", "check everything, show the first batch, try the longest one; write nothing", bool, False
    ),
    Option("overwrite_output_dir", "delete another job's checkpoints in the directory", bool, False),
)
