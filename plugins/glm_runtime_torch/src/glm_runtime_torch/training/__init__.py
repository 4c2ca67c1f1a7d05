"""The declared kit for trainers: everything that a trainer over this runtime may use, and nothing else.

A trainer imports ``glm_core`` and this package. It gets a model that is neither quantised nor placed, because
gradients must pass through the layers; so it does both itself, with `prepare_frozen` or `prepare_trainable`.
The layers are the reference's: they dequantise one matrix at a time for the pass and again for the gradient,
where a backend's kernels would give no gradient at all.

Models:
    `TorchModel`, `as_torch_model`, `prepare_frozen`, `prepare_trainable`, `use_gradient_checkpointing`,
    `count_resident_bytes`, `check_request`, `get_adapter_key`, `recognize_family_name`, `read_stored_bits`.
Rows and losses:
    `TrainingIds`, `TrainingTokenizer`, `get_training_tokenizer`, `IGNORED_LABEL`, `compute_token_losses`.
Prefixes and their files:
    `PrefixEncoder`, `make_prefix_encoder`, `load_prefix`, `load_prefix_for`, `open_adapter`, `read_adapter`,
    `save_adapter`, `AdapterConfig`, `AdapterDirectory`, `BaseModel`,
    `is_same_base`.
Files:
    `write_model`, `read_parameters`, `write_tensors`, `write_text`, `write_checksums`, `flush_directory`.
"""

from __future__ import annotations

from glm_hub.checksums import write_checksums

from ..adapters.directory import AdapterDirectory, open_adapter
from ..adapters.files import AdapterConfig, BaseModel, save_adapter
from ..adapters.fingerprint import is_same_base
from ..adapters.loading import read_adapter
from ..checkpoints.writer import flush_directory, write_tensors, write_text
from ..model.torch_model import TorchModel
from ..network.decoder import IGNORED_LABEL
from ..network.parameters import count_resident_bytes
from ..network.prefix_encoder import PrefixEncoder
from ..tokenizers.training_rows import TrainingIds, TrainingTokenizer
from ._files import read_parameters, write_model
from ._loss import compute_token_losses, use_gradient_checkpointing
from ._models import (
    as_torch_model,
    check_request,
    get_adapter_key,
    get_training_tokenizer,
    prepare_frozen,
    prepare_trainable,
    read_stored_bits,
    recognize_family_name,
)
from ._prefixes import load_prefix, load_prefix_for, make_prefix_encoder

__all__ = [
    "IGNORED_LABEL",
    "AdapterConfig",
    "AdapterDirectory",
    "BaseModel",
    "PrefixEncoder",
    "TorchModel",
    "TrainingIds",
    "TrainingTokenizer",
    "get_adapter_key",
    "as_torch_model",
    "check_request",
    "recognize_family_name",
    "flush_directory",
    "is_same_base",
    "load_prefix",
    "load_prefix_for",
    "make_prefix_encoder",
    "open_adapter",
    "prepare_frozen",
    "prepare_trainable",
    "read_adapter",
    "read_parameters",
    "count_resident_bytes",
    "save_adapter",
    "read_stored_bits",
    "compute_token_losses",
    "get_training_tokenizer",
    "use_gradient_checkpointing",
    "write_checksums",
    "write_model",
    "write_tensors",
    "write_text",
]
