"""Loading a transformers model over several devices, for backends whose devices there may be many of."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch


def load_on_devices(
    checkpoint_path: str,
    free_bytes: Mapping[torch.device, int],
    device_map: Mapping[str, object] | None = None,
    **settings: Any,
) -> Any:
    """Load a transformers model in half precision and divide it; the map is checked first.

    Args:
        checkpoint_path: directory or hub id.
        free_bytes: device to its free memory, in the order in which blocks are dealt out.
        device_map: the user's own map.
        **settings: passed on to ``from_pretrained``.

    Returns:
        The transformers model, ready for ``chat``.

    Raises:
        OutOfMemoryError: no division fits.
        ConfigError: the map does not suit the model.
        DeviceError: the map names other devices.
    """
    # here, because it imports transformers, which no backend needs for its own models
    from ..huggingface.several_devices import load_on_devices as load

    return load(checkpoint_path, free_bytes, device_map, **settings)
