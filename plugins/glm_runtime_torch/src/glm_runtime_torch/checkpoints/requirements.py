"""Whether a checkpoint holds what a network needs: names, shapes and sorts of numbers, before any is read."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from glm_core.errors import CheckpointError

from .reader import Checkpoint
from .stored_scale import PLAIN_DTYPES


def require_parameters(checkpoint: Checkpoint, parameters: Mapping[str, Tensor]) -> None:
    """Check that every named tensor is there and has the expected shape and sort of numbers.

    Args:
        checkpoint: of the model.
        parameters: those of its network by their stored names, also on the meta device.

    Raises:
        CheckpointError: naming the first tensor that is not.
    """
    directory = checkpoint.directory
    missing = [name for name in parameters if name not in checkpoint]
    if missing and any(".lora_" in name for name in checkpoint):
        raise CheckpointError(
            f"{directory} holds a model that PEFT wrapped for LoRA (its tensors are called "
            f"{next(name for name in checkpoint if '.lora_' in name)!r}), not plain weights. Merge the "
            "adapter into the model with PEFT (merge_and_unload) and save that."
        )
    if missing:
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise CheckpointError(
            f"{directory}: tensor {missing[0]}{more} is in none of the weight files; "
            "the checkpoint is incomplete or of another model. Download it again."
        )
    for name, parameter in parameters.items():
        found, expected = checkpoint.get_facts(name).shape, tuple(parameter.shape)
        if found != expected:
            raise CheckpointError(
                f"{directory}: tensor {name} has shape {list(found)}, but config.json asks for "
                f"{list(expected)}. {_explain_shape(checkpoint, name, expected)}"
            )
        check_dtype(checkpoint, name, parameter.dtype)


def check_dtype(checkpoint: Checkpoint, name: str, expected: torch.dtype) -> None:
    """Check that a tensor holds the sort of numbers that a parameter takes.

    Args:
        checkpoint: holds it.
        name: of the tensor.
        expected: dtype of the parameter. Any plain floating-point dtype serves for any other, since it is
            converted while it is read; integers are taken as they are.

    Raises:
        CheckpointError: it does not, and so would be read as weights that it does not hold.
    """
    found = checkpoint.get_facts(name).dtype
    if found == expected or (expected in PLAIN_DTYPES and found in PLAIN_DTYPES):
        return
    kind = str(found).removeprefix("torch.")
    if expected == torch.int8:
        raise CheckpointError(
            f"{checkpoint.directory}: tensor {name} holds {kind} numbers, but quantization_bit in config.json"
            " says that it is stored in int8. If these are the float weights, delete quantization_bit from "
            "config.json; otherwise download both again."
        )
    raise CheckpointError(
        f"{checkpoint.directory}: tensor {name} holds {kind} numbers, where floating-point weights are "
        "expected: it is quantised in a way that config.json does not say. Take the float16 or bfloat16 "
        "original; --quantize int8 or int4 makes it small while it is loaded."
    )


def _explain_shape(checkpoint: Checkpoint, name: str, expected: tuple[int, ...]) -> str:
    found = checkpoint.get_facts(name).shape
    is_half = len(found) == len(expected) == 2 and found == (expected[0], expected[1] // 2)
    if is_half and checkpoint.get_stored_dtype(name) == torch.int8:  # int4 packs two weights into a byte
        return (
            'It has half the columns, as weights in int4: add "quantization_bit": 4 to config.json, '
            "which published int4 models have."
        )
    return "Weights and config.json are of different models; download both again."
