"""What transformers is to read for a model of ours: numbers that are known to be its weights.

transformers copies whatever is stored under a parameter's name into it, also integers whose scales are
elsewhere. So every file is looked at as `glm` does it before anything is read.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from glm_core.errors import CheckpointError

from ..checkpoints.reader import Checkpoint
from ..checkpoints.requirements import check_dtype
from ..checkpoints.scaled_weights import decode_foreign_weights
from ..checkpoints.stored_scale import PLAIN_DTYPES

_log = logging.getLogger("glm")


def check_compute_dtype(dtype: object) -> None:
    """Refuse to compute in what weights are only stored in.

    Raises:
        CheckpointError: transformers took float8 from the files, since nothing else named a dtype.
    """
    if isinstance(dtype, torch.dtype) and dtype not in PLAIN_DTYPES:
        kind = str(dtype).removeprefix("torch.")
        raise CheckpointError(
            f"the weights are stored in {kind}, in which nothing can be computed, and config.json names no "
            "torch_dtype: pass dtype=torch.float16 to from_pretrained"
        )


def read_weights(
    model: nn.Module,
    state: Mapping[str, Tensor] | None,
    files: Sequence[str] | None,
    config: Mapping[str, object],
    dtype: torch.dtype,
    *,
    quantizes: bool = False,
) -> Mapping[str, Tensor] | None:
    """Check what a model is about to be filled with, and read it where transformers could not.

    Args:
        model: its parameters may be on the meta device.
        state: tensors that the caller gave instead of files.
        files: the weight files.
        config: what ``config.json`` says of how the weights are stored.
        dtype: in which decoded weights are returned.
        quantizes: whether transformers quantises while it loads, as ``quantization_config=`` asks.

    Returns:
        The tensors to take instead of the files; ``state`` where transformers can go on as it is.

    Raises:
        CheckpointError: a tensor holds what is no weight of the model, or the format is not ours.
    """
    parameters = {name: parameter.dtype for name, parameter in model.named_parameters()}
    if quantizes and not config.get("quantization_bit"):
        # The parameters are another library's already, which makes its integers of floating-point weights.
        parameters = dict.fromkeys(parameters, torch.float32)
    if state is not None:
        for name, tensor in state.items():
            expected = parameters.get(name, tensor.dtype)
            if tensor.dtype != expected and not {tensor.dtype, expected} <= {*PLAIN_DTYPES}:
                raise CheckpointError(
                    f"state_dict: {name} holds {tensor.dtype} numbers, the model takes {expected}; pass "
                    "weights that are not quantised"
                )
        return state
    paths = [Path(file) for file in files or ()]
    if not paths or {path.suffix for path in paths} - {".safetensors", ".bin"}:
        return None
    checkpoint = Checkpoint(paths[0].parent, paths=paths)
    message = decode_foreign_weights(checkpoint, config)
    for name in checkpoint:
        # transformers also takes names without the base model's prefix
        wanted = parameters.get(name) or parameters.get(f"transformer.{name}")
        if wanted is not None:
            check_dtype(checkpoint, name, wanted)
    if not message:
        return None
    _log.warning("%s", message)
    cpu = torch.device("cpu")
    return {
        name: checkpoint.read(name, dtype=_choose_dtype(checkpoint, name, dtype), device=cpu)
        for name in checkpoint
    }


def _choose_dtype(checkpoint: Checkpoint, name: str, dtype: torch.dtype) -> torch.dtype:
    stored = checkpoint.get_facts(name).dtype
    return dtype if stored in PLAIN_DTYPES else stored
