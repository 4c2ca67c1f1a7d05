"""Naming what people pass as an adapter and what is none, and saying what to do with it."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

from glm_hub.model_files import CONFIG, SAFETENSORS, TORCH, find_weight_form

from glm_core.errors import AdapterError, CheckpointError, OutsideFolderError

from ..checkpoints.confinement import pin_file
from ..checkpoints.json_file import read_json
from ..checkpoints.record_file import format_value
from ..families.registry import find_family

PEFT_CONFIG = "adapter_config.json"
PEFT_WEIGHTS = ("adapter_model.safetensors", "adapter_model.bin")
CHECKPOINT_NAME = re.compile(r"checkpoint-(\d+)")

# What PEFT calls the methods that change layers, and so can be merged into the weights.
_MERGEABLE = frozenset({"LORA", "ADALORA", "IA3", "LOHA", "LOKR", "OFT", "BOFT", "VERA", "XLORA", "HRA"})
_LORA_NAME = re.compile(r"\.lora_|\blora_(A|B|embedding)|\.(loha|lokr|hada|ia3)_")
_PROMPT_NAMES = ("prompt_embeddings", "prompt_encoder.")
# A module of these names holds the vocabulary, which only a whole model has.
_EMBEDDINGS = ("word_embeddings.weight", "embed_tokens.weight", "wte.weight", "lm_head.weight")
# A folder may hold thousands of files; a message that lists a few says what it is.
_MAX_LISTED = 8

_TRAINED_PREFIX = "pass the directory that P-Tuning v2 training wrote (glm train ptuning: checkpoint-N)"


def is_peft(directory: Path) -> bool:
    """Return whether a directory holds an adapter in PEFT's files."""
    return any((directory / name).is_file() for name in (PEFT_CONFIG, *PEFT_WEIGHTS))


def explain_no_weights(directory: Path, inside: Path | None = None) -> str:
    """Return what a directory without weights of an adapter is, and what to pass instead.

    Args:
        directory: that a user named.
        inside: read no file that is really elsewhere; ``None`` = anywhere.
    """
    if is_peft(directory):
        return explain_peft(directory, inside)
    names = sorted(path.name for path in directory.iterdir())
    if any(CHECKPOINT_NAME.fullmatch(name) for name in names):
        return (
            f"{directory} is the folder of a training job, and none of its checkpoint-N folders holds "
            "weights; wait for the first checkpoint, or copy them again"
        )
    gguf = next((name for name in names if name.endswith(".gguf")), None)
    if gguf is not None:
        return f"{directory} holds a GGUF file ({gguf}), which this runtime does not read; {_TRAINED_PREFIX}"
    # Only of the first, because each is a look at the disk.
    adapters = [name for name in names[:100] if find_weight_form(directory / name) is not None]
    if adapters:
        return f"{directory} holds directories, not an adapter: pass one of them, such as {adapters[0]}"
    return (
        f"{directory} holds no weights of an adapter: expected {SAFETENSORS.single} or {TORCH.single}, "
        f"found {_list_names(names)}; {_TRAINED_PREFIX}"
    )


def explain_peft(directory: Path, inside: Path | None = None) -> str:
    """Return which of PEFT's methods an adapter is of, and what to do with it.

    Raises:
        OutsideFolderError: its ``adapter_config.json`` is not inside ``inside``.
    """
    try:
        with pin_file(directory / PEFT_CONFIG, inside) as real:
            method = read_json(real).get("peft_type")
    except OutsideFolderError:
        raise
    except (CheckpointError, AdapterError) as error:  # missing or damaged: PEFT could not load it either
        return f"{directory} is an adapter of PEFT, which this runtime does not read: {error}"
    of_method = f" (peft_type {format_value(method)})"
    if isinstance(method, str) and method.upper() in _MERGEABLE:
        return _explain_lora(f"{directory} is a LoRA-like adapter of PEFT{of_method}")
    return (
        f"{directory} is an adapter of PEFT{of_method}, which this runtime does not read; {_TRAINED_PREFIX}"
    )


def explain_no_prefix(directory: Path, names: Collection[str], published: Mapping[str, Any]) -> str:
    """Return what weights without a prefix are, and what to do with them.

    Args:
        directory: where they are.
        names: of their tensors.
        published: the ``config.json`` beside them; empty if there is none.
    """
    if any(_LORA_NAME.search(name) for name in names):
        return _explain_lora(f"{directory} holds the weights of a LoRA-like adapter")
    if any(name.startswith(_PROMPT_NAMES) for name in names):
        return f"{directory} holds a prefix or prompt in PEFT's form, which is not read; {_TRAINED_PREFIX}"
    family = find_family(published)
    if any(name.endswith(_EMBEDDINGS) for name in names):
        what = f"a whole {family.name} model" if family else "a whole model"
        missing = "" if (directory / CONFIG).is_file() else f" (with its {CONFIG} and tokenizer)"
        return (
            f"{directory} holds {what} without a prefix, as training all weights gives it, and no adapter; "
            f"pass it as the model{missing}: --model {directory}"
        )
    return (
        f"{directory} holds no prefix encoder: none of its tensors is called "
        f"prefix_encoder.embedding.weight, they are {_list_names(sorted(names))}; {_TRAINED_PREFIX}"
    )


def _explain_lora(what: str) -> str:
    return (
        f"{what}, which this runtime does not read; merge it into its base model "
        "(PEFT: merge_and_unload(), then save_pretrained(DIR)) and pass DIR as the model: --model DIR"
    )


def _list_names(names: Iterable[str]) -> str:
    """Return some of the names, each cut: they are a stranger's, and may be long."""
    listed = [format_value(name).strip('"') for name in names]
    return (", ".join(listed[:_MAX_LISTED]) or "nothing") + (", …" if len(listed) > _MAX_LISTED else "")
