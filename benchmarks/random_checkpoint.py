"""A random ChatGLM-6B (v1) checkpoint of any size, with the demo model's vocabulary."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import torch
from glm_runtime_torch.architectures.chatglm import ChatGLM, ChatGLMConfig
from glm_runtime_torch.empty_weights import empty_weights
from safetensors.torch import save_file

import glm_core


def write_checkpoint(directory: Path, *, num_layers: int, hidden_size: int) -> Path:
    """Write float16 weights, configuration and vocabulary; the head dim is 128 as in ChatGLM-6B."""
    demo = glm_core.resolve_model("demo")
    config = json.loads((demo / "config.json").read_text("utf-8")) | {
        "num_layers": num_layers,
        "hidden_size": hidden_size,
        "inner_hidden_size": 4 * hidden_size,
        "num_attention_heads": max(1, hidden_size // 128),
    }
    (directory / "config.json").write_text(json.dumps(config), "utf-8")
    shutil.copyfile(demo / "ice_text.model", directory / "ice_text.model")
    with empty_weights():
        network = ChatGLM(ChatGLMConfig.from_checkpoint(config))
    torch.manual_seed(0)
    weights = {
        name: (torch.randn(parameter.shape) * 0.02).half() for name, parameter in network.named_parameters()
    }
    save_file(weights, directory / "model.safetensors")
    return directory
