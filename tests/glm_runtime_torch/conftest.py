"""Checkpoints that several tests of the runtime read."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tiny_models import tiny_checkpoint


@pytest.fixture(scope="session")
def gigabyte(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random checkpoint with 1 GB of float16 weights in safetensors."""
    return tiny_checkpoint(tmp_path_factory.mktemp("large") / "safetensors", num_layers=10, hidden_size=2048)


@pytest.fixture(scope="session")
def gigabyte_bin(gigabyte: Path) -> Path:
    """The same weights as one ``pytorch_model.bin``."""
    target = gigabyte.parent / "bin"
    target.mkdir()
    for path in gigabyte.iterdir():
        if path.suffix != ".safetensors":
            (target / path.name).write_bytes(path.read_bytes())
    torch.save(load_file(gigabyte / "model.safetensors"), target / "pytorch_model.bin")
    return target
