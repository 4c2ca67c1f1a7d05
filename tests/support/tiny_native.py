"""Tiny random checkpoints of families that transformers defines, with a tokenizer and a chat template."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerFast

CONTROL = ("<|endoftext|>", "[gMASK]", "<sop>", "<|system|>", "<|user|>", "<|assistant|>", "<|observation|>")
TEMPLATE = (
    "[gMASK]<sop>{% for message in messages %}<|{{ message.role }}|>\n{{ message.content }}{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


def byte_tokenizer(template: str | None = TEMPLATE) -> PreTrainedTokenizerFast:
    """Bytes as pieces and the control tokens behind them."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={piece: i for i, piece in enumerate(alphabet)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=CONTROL[0], pad_token=CONTROL[0])
    fast.add_special_tokens({"extra_special_tokens": list(CONTROL[1:])})
    fast.chat_template = template
    return fast


def native_checkpoint(directory: Path, model_type: str = "glm4", **config: Any) -> Path:
    """A random checkpoint as transformers writes it, in float16."""
    tokenizer = byte_tokenizer()
    ends = [
        tokenizer.convert_tokens_to_ids(name) for name in ("<|endoftext|>", "<|user|>", "<|observation|>")
    ]
    settings = {
        "vocab_size": len(tokenizer) + 5,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 8,
        "max_position_embeddings": 512,
        "pad_token_id": ends[0],
        "eos_token_id": ends,
        "initializer_range": 0.3,
    }
    if model_type == "glm4_moe":
        settings |= {"moe_intermediate_size": 32, "n_routed_experts": 4, "num_experts_per_tok": 2}
    torch.manual_seed(0)
    network = AutoModelForCausalLM.from_config(AutoConfig.for_model(model_type, **{**settings, **config}))
    for name, value in network.named_buffers():
        if name.endswith("e_score_correction_bias"):  # zero as initialised, which would prove nothing
            value.copy_(torch.randn_like(value) / 8)
    network.half().save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    return directory
