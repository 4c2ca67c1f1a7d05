"""A tiny random model as a GGUF file, for tests of runtimes that read this format.

Needs the packages ``gguf`` and numpy; what it writes, llama.cpp reads.
"""

from __future__ import annotations

from pathlib import Path
from types import ModuleType
from typing import Any

from glm_testing import make_host

from glm_core import ChatModel
from glm_core.config import Settings
from glm_core.routing import open_model

TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}"
    "{% if message.role == 'system' and not loop.first %}"
    "{{ raise_exception('system comes first') }}{% endif %}"
    "[{{ message.role }}] {{ message.content }}\n"
    "{% endfor %}[assistant] "
)
"""A chat template; one that refuses a system message in the middle."""

LONG_PIECE = "long " * 30
"""A token of more bytes than small buffers hold."""

_WORDS = ("the", "and", "you", "are", "how", "what", "capital", "France", "你好", "天气", "介绍", "日本語")
_SIGNS = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789 .,!?:;()[]\n你好吗天气今我是的请说"
_UNKNOWN, _NORMAL, _CONTROL, _BYTE = 2, 1, 3, 6  # token types of GGUF


def write_tiny_gguf(
    file: Path, *, template: str | None = TEMPLATE, context_length: int = 512, seed: int = 0
) -> Path:
    """Write a model of 2 layers with random weights and return the file.

    Args:
        file: where to.
        template: its chat template; ``None`` = none.
        context_length: what it says that it was made for.
        seed: chooses the weights.
    """
    import gguf
    import numpy as np

    tokens = _vocabulary()
    hidden, inner, heads, kv_heads, layers = 64, 128, 4, 2, 2
    head_dim = hidden // heads
    writer = gguf.GGUFWriter(file, "llama")
    writer.add_name("tiny")
    writer.add_context_length(context_length)
    writer.add_embedding_length(hidden)
    writer.add_block_count(layers)
    writer.add_feed_forward_length(inner)
    writer.add_head_count(heads)
    writer.add_head_count_kv(kv_heads)
    writer.add_rope_dimension_count(head_dim)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_vocab_size(len(tokens))
    writer.add_tokenizer_model("llama")
    writer.add_token_list([text for text, _, _ in tokens])
    writer.add_token_scores([score for _, score, _ in tokens])
    writer.add_token_types([kind for _, _, kind in tokens])
    writer.add_unk_token_id(0)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_add_bos_token(True)
    if template is not None:
        writer.add_chat_template(template)
    chance = np.random.default_rng(seed)

    def add(name: str, *shape: int) -> None:
        # Large enough that the next token depends on the context rather than on the bias of one row.
        weights: Any = chance.normal(0, 1.5 / np.sqrt(shape[-1]), shape).astype(np.float32)
        writer.add_tensor(name, weights)

    def add_norm(name: str) -> None:
        writer.add_tensor(name, np.ones(hidden, dtype=np.float32))

    add("token_embd.weight", len(tokens), hidden)
    for layer in range(layers):
        add_norm(f"blk.{layer}.attn_norm.weight")
        add(f"blk.{layer}.attn_q.weight", hidden, hidden)
        add(f"blk.{layer}.attn_k.weight", kv_heads * head_dim, hidden)
        add(f"blk.{layer}.attn_v.weight", kv_heads * head_dim, hidden)
        add(f"blk.{layer}.attn_output.weight", hidden, hidden)
        add_norm(f"blk.{layer}.ffn_norm.weight")
        add(f"blk.{layer}.ffn_gate.weight", inner, hidden)
        add(f"blk.{layer}.ffn_up.weight", inner, hidden)
        add(f"blk.{layer}.ffn_down.weight", hidden, inner)
    add_norm("output_norm.weight")
    add("output.weight", len(tokens), hidden)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return file


def open_gguf(plugin: ModuleType, file: Path, notices: list[str] | None = None, **settings: Any) -> ChatModel:
    """Open a file with nothing but one runtime installed.

    Args:
        plugin: the runtime's plugin module.
        file: the model.
        notices: takes what the user would be told.
        settings: as of `Settings`.
    """
    told = [] if notices is None else notices
    return open_model(
        make_host(runtime_llamacpp=plugin), Settings(model=str(file), **settings), notify=told.append
    )


def _vocabulary() -> list[tuple[str, float, int]]:
    """Return text, score and type of each token: control, all bytes, signs, words with a space in front."""
    special = [("<unk>", 0.0, _UNKNOWN), ("<s>", 0.0, _CONTROL), ("</s>", 0.0, _CONTROL)]
    each_byte = [(f"<0x{number:02X}>", 0.0, _BYTE) for number in range(256)]
    # A space is written ▁ in this kind of vocabulary; without it, words could not be split.
    texts = [sign.replace(" ", "▁") for sign in _SIGNS]
    texts += [f"▁{word}" for word in _WORDS] + [LONG_PIECE.replace(" ", "▁")]
    normal = [(text, -1.0 - number, _NORMAL) for number, text in enumerate(dict.fromkeys(texts))]
    return [*special, *each_byte, *normal]
