"""A tiny checkpoint of every family that the torch runtime knows, for tests that hold for each of them."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from pathlib import Path

import torch
from glm_runtime_torch.architectures.chatglm2 import ChatGLM2, ChatGLM2Config
from glm_runtime_torch.families.recognition import GLM4_VOCABULARY
from glm_runtime_torch.families.registry import FAMILIES
from safetensors.torch import save_file
from tiny_models import DATA, tiny_checkpoint, tiny_checkpoint2
from tiny_native import native_checkpoint


def tiny_glm4_9b(directory: Path) -> Path:
    """Write a random GLM-4-9B checkpoint of the first form, whose vocabulary is all single bytes."""
    directory.mkdir(parents=True, exist_ok=True)
    lines = [f"{base64.b64encode(bytes([value])).decode()} {value}" for value in range(256)]
    (directory / "tokenizer.model").write_text("\n".join(lines) + "\n", "utf-8")
    published = json.loads((DATA / "chatglm2-6b/ckpt/fp16-safetensors/config.json").read_text("utf-8"))
    content = {
        **published,
        "_name_or_path": "THUDM/glm-4-9b-chat",
        "padded_vocab_size": GLM4_VOCABULARY,  # what the family is told by
        "eos_token_id": 256,  # the first control token, behind the bytes
        "hidden_size": 32,
        "kv_channels": 8,
        "num_layers": 2,
    }
    (directory / "config.json").write_text(json.dumps(content), "utf-8")
    torch.manual_seed(0)
    network = ChatGLM2(ChatGLM2Config.from_checkpoint(content))
    for name, value in network.state_dict().items():
        if name.endswith("weight") and value.dim() == 2:
            torch.nn.init.normal_(value, std=0.3)
    network.transformer.output_layer.weight.data[256:] = 0  # control tokens are unlikely
    state = {name: value.half().contiguous() for name, value in network.state_dict().items()}
    save_file(state, directory / "model.safetensors")
    return directory


MAKERS: dict[str, Callable[[Path], Path]] = {
    "chatglm": tiny_checkpoint,
    "chatglm2": lambda directory: tiny_checkpoint2(directory, "chatglm2-6b"),
    "chatglm3": lambda directory: tiny_checkpoint2(directory, "chatglm3-6b"),
    "glm4-9b": tiny_glm4_9b,
    "glm": lambda directory: native_checkpoint(directory, "glm"),
    "glm4": lambda directory: native_checkpoint(directory, "glm4"),
    "glm4_moe": lambda directory: native_checkpoint(directory, "glm4_moe"),
}
# A family that is added without a tiny checkpoint here would be left out of every test that uses them.
assert MAKERS.keys() == {family.name for family in FAMILIES}
