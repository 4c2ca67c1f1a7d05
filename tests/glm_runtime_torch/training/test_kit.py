"""The declared kit for trainers: which names it has."""

from __future__ import annotations

import inspect

import glm_runtime_torch.training as kit

NAMES = [
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


def test_names_are_exactly_these() -> None:
    """A name is added to or taken from the kit on purpose only."""
    assert kit.__all__ == NAMES
    assert all(hasattr(kit, name) for name in NAMES)


def test_every_name_is_explained() -> None:
    """Every class and function has a docstring, and the kit's own text lists it."""
    text = inspect.getdoc(kit) or ""
    for name in NAMES:
        assert f"`{name}`" in text, name
        value = getattr(kit, name)
        assert not callable(value) or inspect.getdoc(value), name
