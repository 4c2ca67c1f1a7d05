"""Prefix encoders: new ones, and trained ones from the files of an adapter."""

from __future__ import annotations

from pathlib import Path

import torch
from glm_hub.model_files import CONFIG

from glm_core.errors import CheckpointError

from ..adapters.directory import AdapterDirectory
from ..adapters.files import BaseModel
from ..adapters.fingerprint import fingerprint_checkpoint
from ..adapters.loading import load_prefix_encoder
from ..checkpoints.json_file import read_json
from ..checkpoints.reader import Checkpoint
from ..model.directory import read_config, recognize_family
from ..model.torch_model import TorchModel
from ..network.prefix_encoder import PrefixEncoder


def make_prefix_encoder(
    model: TorchModel, pre_seq_len: int, *, prefix_projection: bool, seed: int
) -> PrefixEncoder:
    """Return an untrained encoder of a model's sizes, in float32 on the CPU.

    Args:
        model: that it shall stand in front of.
        pre_seq_len: positions of the prefix.
        prefix_projection: learn a two-layer network over smaller rows instead of keys and values themselves.
        seed: what its first values follow from; the process's own generator is left alone.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return model.family.build_prefix_encoder(model.config, pre_seq_len, prefix_projection)


def load_prefix(
    model: TorchModel, adapter: AdapterDirectory | Path, base: BaseModel | None = None
) -> PrefixEncoder:
    """Return a trained encoder that fits a model, in float32 on the CPU.

    Args:
        model: that it shall stand in front of.
        adapter: an opened adapter, or its directory.
        base: what the model is; if the adapter was trained on other weights, a warning says so.

    Raises:
        AdapterError: it is missing, damaged or of another model.
    """
    return load_prefix_encoder(adapter, model.family, model.config, base)


def load_prefix_for(directory: Path, name: str, adapter: AdapterDirectory) -> PrefixEncoder:
    """Return a trained encoder for a model that is not opened; its configuration and norms are read.

    Args:
        directory: of the model.
        name: how the user calls it, for the warning about an adapter of other weights.
        adapter: the opened adapter.

    Raises:
        CheckpointError: the directory holds no model that this runtime knows.
        AdapterError: the adapter is damaged or of another model.
    """
    family = recognize_family(directory)
    if family is None:
        raise CheckpointError(f"{directory} holds no model of a family that this runtime knows")
    config = read_config(directory, read_json(directory / CONFIG), family)
    base = BaseModel(name, fingerprint_checkpoint(Checkpoint(directory)))
    return load_prefix_encoder(adapter, family, config, base)
