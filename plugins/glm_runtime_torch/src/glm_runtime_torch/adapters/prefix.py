"""P-Tuning v2 prefixes as adapters: keys and values that are copied in front of a request's prompt.

Axes: L layers · G key/value heads · P prefix length · H head dim
"""

from __future__ import annotations

import hashlib

import torch
from torch import Tensor

from ..network.kv_cache import KVCache, compute_slot_bytes
from ..network.language_model import LanguageModel
from ..network.prefix_encoder import PrefixEncoder
from .adapter import Adapter

KIND = "prefix"


class PrefixAdapter(Adapter):
    """Keys and values of a prefix, laid out as the KV cache takes them.

    A prefix is copied into the slot of each request rather than shared between slots: every sequence then
    lies in one piece of memory, attention needs no second place to look at, and removing the adapter ends
    nothing that runs.

    Args:
        name: by which requests ask for it.
        key_values: ``[L, 2, G, P, H]`` on the device and in the dtype of the cache.
    """

    kind = KIND

    def __init__(self, name: str, key_values: Tensor) -> None:
        super().__init__(name, f"{KIND}:{_hash(key_values)}", key_values.shape[3])
        self.key_values = key_values

    def fill_slot(self, cache: KVCache, slot: int, start: int = 0) -> None:
        """See `Adapter.fill_slot`."""
        cache.write(slot, self.key_values, start)


class StoredPrefix:
    """A prefix as its files hold it; see `StoredAdapter`.

    Args:
        encoder: with its weights, of the model that it is to serve.
    """

    kind = KIND

    def __init__(self, encoder: PrefixEncoder) -> None:
        self._encoder = encoder

    @property
    def num_positions(self) -> int:
        """Return P, the positions that it takes."""
        return self._encoder.pre_seq_len

    def count_bytes(self, dtype: torch.dtype) -> int:
        """See `StoredAdapter.count_bytes`."""
        encoder = self._encoder
        return compute_slot_bytes(
            encoder.num_layers, encoder.num_kv_heads, encoder.pre_seq_len, encoder.head_dim, dtype
        )

    def place(
        self, name: str, network: LanguageModel, device: torch.device, dtype: torch.dtype
    ) -> PrefixAdapter:
        """See `StoredAdapter.place`; the network stays as it is."""
        return PrefixAdapter(name, self._encoder.lay_out(device, dtype))


def _hash(key_values: Tensor) -> str:
    """Return a hash of shape, dtype and every bit.

    All of it, not a sample: two checkpoints of one training may differ in a few rows only, and a prompt
    that is wrongly reused is an answer that is silently wrong.
    """
    digest = hashlib.sha256(f"{key_values.dtype}{tuple(key_values.shape)}".encode())
    digest.update(key_values.cpu().contiguous().view(torch.uint8).numpy().data)
    return digest.hexdigest()
