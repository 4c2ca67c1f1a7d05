"""Telling apart the quantised formats of other programs, by ``config.json`` and by the names of tensors.

Most of them cannot be read here, and their integers must never be taken for weights. `scaled_weights` reads
those that convert exactly.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from glm_core.errors import CheckpointError

KEYS = ("quantization_config", "compression_config", "quantization")
"""Keys of ``config.json`` that state a format: everyone's today, compressed-tensors' earlier one, MLX's."""

CONVERTIBLE = ("fp8", "fbgemm_fp8", "compressed-tensors", "modelopt", "bitsandbytes")
"""Methods some of whose forms are integers or float8 times a scale; whether this one is, the tensors say."""

_NAMES = {
    "gptq": "GPTQ",
    "awq": "AWQ",
    "hqq": "HQQ",
    "eetq": "EETQ",
    "quanto": "quanto",
    "torchao": "torchao",
    "mlx": "MLX",
    "modelopt": "ModelOpt",
}

# How a tensor's name ends where a format has stored it; the first that fits is named.
_ENDINGS: tuple[tuple[str, tuple[str, ...]], ...] = (
    (
        "bitsandbytes 4-bit",
        (".absmax", ".quant_map", ".quant_state.bitsandbytes__nf4", ".quant_state.bitsandbytes__fp4"),
    ),
    ("bitsandbytes 8-bit", (".SCB",)),
    ("GPTQ", (".g_idx",)),
    ("GPTQ or AWQ", (".qweight", ".qzeros")),
    ("compressed-tensors", (".weight_packed", ".weight_g_idx", ".bitmask")),
    ("NVFP4", (".weight_scale_2", ".weight_global_scale")),
    ("HQQ", (".W_q",)),
    ("EETQ", (".weight_scales",)),
    ("quanto", (".weight._data", ".weight._scale")),
    ("torchao", ("_weight_qdata", ":qdata", ":_data")),
    ("AQLM", (".codebooks", ".codes")),
    ("EXL2 or EXL3", (".q_weight", ".q_scale", ".trellis")),
    ("MLX", (".scales", ".biases")),
    ("fp8", (".weight_scale_inv",)),
)


@dataclass(frozen=True)
class StatedFormat:
    """What ``config.json`` says of a format of another program.

    Attributes:
        key: where it says so.
        method: its name as transformers spells it, in lower case; empty where none is given.
        name: what people call it.
        settings: the whole entry.
    """

    key: str
    method: str
    name: str
    settings: Mapping[str, Any]


def read_stated_format(directory: Path, config: Mapping[str, Any]) -> StatedFormat | None:
    """Return the format that a ``config.json`` states, or ``None`` if it states none.

    Args:
        directory: of the checkpoint, for messages.
        config: content of ``config.json``.

    Raises:
        CheckpointError: the entry is not an object.
    """
    for key in KEYS:
        settings = config.get(key)
        if settings is None or settings == {}:
            continue
        if not isinstance(settings, Mapping):
            raise CheckpointError(
                f"{directory / 'config.json'}: {key} is {settings!r:.80}, expected an object that describes "
                "how the weights are quantised; delete the key if they are not"
            )
        method = _find_method(key, settings)
        return StatedFormat(key, method, _format_name(method, settings), settings)
    return None


def name_format(names: Iterable[str]) -> str | None:
    """Return what people call the format whose tensors have such names, or ``None`` if none is known."""
    every = tuple(names)
    for name, endings in _ENDINGS:
        if any(
            tensor.endswith(endings) or (".quant_state." in tensor and "4-bit" in name) for tensor in every
        ):
            return name
    return None


def refuse_format(directory: Path, name: str, reason: str) -> CheckpointError:
    """Return the error for weights of a format that cannot be read here.

    Args:
        directory: of the checkpoint.
        name: of the format.
        reason: how it was recognised.
    """
    return CheckpointError(
        f"{directory}: the weights are quantised with {name} ({reason}), which cannot be read here. Take the "
        "float16 or bfloat16 original; --quantize int8 or int4 makes it as small while it is loaded, and "
        "glm quantize once and for all."
    )


def _find_method(key: str, settings: Mapping[str, Any]) -> str:
    method = settings.get("quant_method")
    if isinstance(method, str) and method:
        # `quant_method` stood in some files as an enumeration's name: QuantizationMethod.GPTQ.
        return method.lower().rpartition(".")[2].replace("_8bit", "").replace("_4bit", "")
    if settings.get("load_in_8bit") or settings.get("load_in_4bit"):  # before transformers 4.34
        return "bitsandbytes"
    if key == "compression_config" or "config_groups" in settings:
        return "compressed-tensors"
    if key == "quantization":
        return "mlx"
    return "modelopt" if "quant_algo" in settings else ""


def _format_name(method: str, settings: Mapping[str, Any]) -> str:
    if method == "bitsandbytes":
        return "bitsandbytes 4-bit" if settings.get("load_in_4bit") else "bitsandbytes 8-bit"
    return _NAMES.get(method, method) or "a method that its entry does not name"
