"""The call ``load_model_on_gpus`` of ChatGLM6Bpkg."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from glm_core import ConfigError, DeviceError
from glm_core.records import DeviceInfo

from ._devices import describe


def load_model_on_gpus(
    checkpoint_path: str,
    num_gpus: int = 2,
    device_map: Mapping[str, object] | None = None,
    **kwargs: Any,
) -> Any:
    """Load a model in half precision over several GPUs.

    Args:
        checkpoint_path: directory or hub id.
        num_gpus: how many of this machine's GPUs, from the first on; fewer than 2 take one, without a map.
        device_map: module name as in the original to a GPU; any of this machine's. ``None`` divides
            the model by the free memory of the GPUs.
        **kwargs: passed on to ``from_pretrained``.

    Returns:
        The transformers model, ready for ``chat``.

    Raises:
        DeviceError: there are not so many GPUs, or the map names others.
        ConfigError: the map does not suit the model; before any weight is read.
        OutOfMemoryError: the model does not fit.
    """
    names = choose_gpus(describe(), num_gpus, device_map is not None)
    import torch  # here, so that a machine without a GPU gets its error at once
    from glm_runtime_torch.backends import load_on_devices

    from ._placement import measure_free_bytes

    return load_on_devices(
        checkpoint_path, measure_free_bytes([torch.device(name) for name in names]), device_map, **kwargs
    )


def choose_gpus(devices: Sequence[DeviceInfo], num_gpus: int, has_map: bool) -> tuple[str, ...]:
    """Return the names of the GPUs to use.

    Raises:
        ConfigError: the number is not an integer of 0 or more.
        DeviceError: there are fewer GPUs.
    """
    if isinstance(num_gpus, bool) or not isinstance(num_gpus, int) or num_gpus < 0:
        raise ConfigError(f"num_gpus must be a whole number of GPUs, got {num_gpus!r}")
    available = tuple(device.name for device in devices if device.available)
    if not available:
        raise DeviceError(f"load_model_on_gpus needs an NVIDIA GPU: {devices[0].reason}")
    wanted = max(1, num_gpus)
    if has_map:
        return available
    if wanted > len(available):
        raise DeviceError(
            f"num_gpus={num_gpus}: this machine has {len(available)} ({', '.join(available)}); pass num_gpus="
            f"{len(available)}, or quantise the model to fit fewer."
        )
    return available[:wanted]
