"""The original's ``load_ptuning_checkpoint``: a model of transformers with a trained prefix in it."""

from __future__ import annotations

from typing import Any

import torch
from glm_runtime_torch.training import load_prefix_for, open_adapter, read_stored_bits, recognize_family_name
from transformers import AutoConfig, AutoModel, AutoTokenizer

from glm_core import resolve_model
from glm_core.config import expand
from glm_core.errors import CheckpointError, ConfigError

FAMILY = "chatglm"
BITS = (4, 8)


def load_ptuning_checkpoint(
    model_name_or_path: str,
    ptuning_checkpoint: str,
    pre_seq_len: int,
    trust_remote_code: bool = True,
    quantization_bit: int | None = None,
) -> tuple[Any, Any, Any]:
    """Load ChatGLM-6B in half precision with a trained prefix in float32, as the original.

    Args:
        model_name_or_path: directory, known name or hub id of the base model.
        ptuning_checkpoint: directory that P-Tuning v2 training wrote, ours or the original's.
        pre_seq_len: positions of its prefix; whether it has a projection is found out.
        trust_remote_code: no effect; no code is ever loaded with a model.
        quantization_bit: 4 or 8 quantises the blocks' linear layers.

    Returns:
        Tokenizer, configuration and model of transformers; the model is on the CPU, in evaluation
        mode, and everything but the prefix is frozen.

    Raises:
        ModelNotFoundError: nothing answers to the model's name.
        CheckpointError: the model is damaged, or no ChatGLM-6B.
        AdapterError: the checkpoint is missing, damaged, of another model or of another length.
        ConfigError: ``quantization_bit`` cannot be used.
    """
    directory = resolve_model(model_name_or_path)
    if recognize_family_name(directory) != FAMILY:
        raise CheckpointError(
            f"{model_name_or_path} is no ChatGLM-6B, which alone can be loaded this way; "
            "use glm_core.load(model, adapters={...})"
        )
    bits = _choose_bits(quantization_bit, read_stored_bits(directory))
    adapter = open_adapter(expand(ptuning_checkpoint))
    encoder = load_prefix_for(directory, model_name_or_path, adapter)
    adapter.require(pre_seq_len=pre_seq_len)
    settings = {"pre_seq_len": pre_seq_len, "prefix_projection": encoder.trans is not None}
    config = AutoConfig.from_pretrained(directory, **settings)
    model = AutoModel.from_pretrained(directory, config=config, dtype=torch.float16)
    model.prefix_encoder.float().load_state_dict(encoder.state_dict())
    if bits:
        model.quantize(bits)
    return AutoTokenizer.from_pretrained(directory), config, model.eval()


def _choose_bits(wanted: int | None, stored: int) -> int:
    """Return the bits to quantise to now; 0 = do not."""
    if not wanted or wanted == stored:
        return 0
    if wanted not in BITS:
        raise ConfigError(f"quantization_bit must be 4 or 8, got {wanted!r}")
    if stored:
        raise ConfigError(
            f"the model is quantised to {stored} bits already, quantization_bit {wanted} is asked for; "
            "leave quantization_bit out, or pass the float16 model"
        )
    return wanted
