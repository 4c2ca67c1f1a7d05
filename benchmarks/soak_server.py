"""The server that `soak_api` asks: a small model with random weights, its adapters, and the process."""

from __future__ import annotations

import contextlib
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from random_checkpoint import write_chatglm3_checkpoint
from safetensors.torch import save_file
from soak_cases import GUESTS, KEY

STORED_NAME = "transformer.prefix_encoder.embedding.weight"
PRE_SEQ_LEN = 8


@dataclass(frozen=True)
class SoakFiles:
    """What the server is started with.

    Attributes:
        model: directory of the model.
        adapters: directory with the adapters, and with some that must be refused.
    """

    model: Path
    adapters: Path


def write_files(folder: Path) -> SoakFiles:
    """Write a ChatGLM3, which calls tools and reuses prefixes, adapters for it, and what is no adapter."""
    model = write_chatglm3_checkpoint(folder / "model", num_layers=2, hidden_size=256)
    adapters = folder / "adapters"
    for seed, name in enumerate(["steady", *(f"guest{number}" for number in range(GUESTS))]):
        _write_adapter(adapters / name, model, seed)
    _write_adapter(adapters / "damaged", model, 0)
    (adapters / "damaged" / "model.safetensors").write_bytes(b"\xff" * 1000)
    (adapters / "link").mkdir()
    (adapters / "link" / "model.safetensors").symlink_to(model / "config.json")
    return SoakFiles(model, adapters)


@contextlib.contextmanager
def start_server(files: SoakFiles, options: list[str]) -> Iterator[str]:
    """Run ``glm run api`` on a free port; yields its URL."""
    command = [sys.executable, "-m", "glm_core", "run", "api", "--port", "0", "--model", str(files.model)]
    command += ["--adapter", f"steady={files.adapters / 'steady'}", "--adapters-dir", str(files.adapters)]
    process = subprocess.Popen(
        [*command, *options], stderr=subprocess.PIPE, text=True, env={**os.environ, "GLM_API_KEY": KEY}
    )
    assert process.stderr is not None
    try:
        for line in process.stderr:
            match = re.search(r"serving .* on (http://\S+)", line)
            if match:
                break
        else:
            raise SystemExit("the server did not start")
        yield match[1]
        process.terminate()
        process.communicate(timeout=60)
    finally:
        process.kill()


def _write_adapter(directory: Path, model: Path, seed: int) -> None:
    """Write random keys and values in the original trainer's form."""
    config = json.loads((model / "config.json").read_text("utf-8"))
    width = config["num_layers"] * 2 * config["multi_query_group_num"] * config["kv_channels"]
    directory.mkdir(parents=True)
    rows = torch.randn(PRE_SEQ_LEN, width, generator=torch.Generator().manual_seed(seed))
    save_file({STORED_NAME: rows}, directory / "model.safetensors")
