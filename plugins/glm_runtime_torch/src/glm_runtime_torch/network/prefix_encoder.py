"""P-Tuning v2: trainable keys and values in front of every layer's KV cache.

Axes: B batch · L layers · G key/value heads · H head dim · P prefix length
Source: P-Tuning v2, arXiv:2110.07602; parameter names as in the original checkpoints.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .attention import KeyValueStore
from .memory import reserve_zeros


class PrefixEncoder(nn.Module):
    """Turns ``P`` learned positions into keys and values for every layer.

    Only these weights train; the model's own stay frozen.

    Args:
        pre_seq_len: P.
        num_layers: L.
        num_kv_heads: G.
        head_dim: H.
        projection: ``None`` learns the keys and values themselves, one embedding row of
            ``L * 2 * G * H``; ``(embedding_size, inner_size)`` learns smaller rows and a
            two-layer tanh network over them.
    """

    def __init__(
        self,
        pre_seq_len: int,
        num_layers: int,
        num_kv_heads: int,
        head_dim: int,
        projection: tuple[int, int] | None = None,
    ) -> None:
        super().__init__()
        self.pre_seq_len = pre_seq_len
        self.num_layers = num_layers
        self.num_kv_heads = num_kv_heads
        self.head_dim = head_dim
        kv_size = num_layers * 2 * num_kv_heads * head_dim
        if projection is None:
            self.embedding = nn.Embedding(pre_seq_len, kv_size)
            self.trans = None
        else:
            embedding_size, inner_size = projection
            self.embedding = nn.Embedding(pre_seq_len, embedding_size)
            self.trans = nn.Sequential(
                nn.Linear(embedding_size, inner_size), nn.Tanh(), nn.Linear(inner_size, kv_size)
            )

    def forward(self) -> Tensor:
        """Return keys and values of the prefix, ``[L, 2, G, P, H]``, in the weights' own dtype."""
        rows = self.embedding.weight if self.trans is None else self.trans(self.embedding.weight)
        # one row holds key of layer 0, value of layer 0, key of layer 1, ...
        rows = rows.view(self.pre_seq_len, self.num_layers, 2, self.num_kv_heads, self.head_dim)
        return rows.permute(1, 2, 3, 0, 4)  # [L, 2, G, P, H]

    @torch.no_grad()
    def lay_out(self, device: torch.device, dtype: torch.dtype) -> Tensor:
        """Return keys and values as a KV cache takes them: ``[L, 2, G, P, H]`` in memory of their own.

        That memory goes back to the operating system as soon as nobody holds the tensor.
        """
        rows = self()
        return reserve_zeros(rows.shape, dtype, device).copy_(rows)


class PrefixedKeyValues:
    """Puts a prefix in front of each layer's keys and values; keeps nothing between calls.

    For training and scoring, where the whole sequence passes at once. With ``store`` empty it
    also seeds that cache: generation through transformers starts so.

    Args:
        prefix: ``[L, 2, G, P, H]``.
        dropout: probability with which single prefix elements are dropped (0.1 in training).
        store: a cache that is to hold the prefix from now on.
        seed: what is dropped follows from it and the layer alone, for each row of a batch by itself,
            so a layer that is computed twice (gradient checkpointing) drops the same; ``None`` takes
            torch's generator and drops the same in all rows.
    """

    def __init__(
        self,
        prefix: Tensor,
        dropout: float = 0.0,
        store: KeyValueStore | None = None,
        *,
        seed: int | None = None,
    ) -> None:
        self._prefix = torch.dropout(prefix, dropout, train=True) if dropout and seed is None else prefix
        self._store = store
        self._dropout = dropout
        self._seed = seed

    def update(self, keys: Tensor, values: Tensor, layer: int) -> tuple[Tensor, Tensor]:
        """Put the prefix in front; the result is ``P`` positions longer than the input."""
        front = self._prefix[layer].to(keys.device, keys.dtype)  # [2, G, P, H]
        front = front.unsqueeze(1).expand(2, keys.shape[0], *front.shape[1:])  # [2, B, G, P, H]
        if self._seed is not None and self._dropout:
            front = front * self._make_dropout_mask(front, layer)
        keys = torch.cat((front[0], keys), dim=2)
        values = torch.cat((front[1], values), dim=2)
        return self._store.update(keys, values, layer) if self._store is not None else (keys, values)

    def _make_dropout_mask(self, front: Tensor, layer: int) -> Tensor:
        """Return factors: 0 where an element is dropped, elsewhere what makes up for it."""
        generator = torch.Generator(front.device)
        # A number of its own for each layer, whatever the order in which layers are computed again.
        generator.manual_seed((self._seed or 0) * self._prefix.shape[0] + layer)
        kept = torch.rand(front.shape, generator=generator, device=front.device) >= self._dropout
        return kept.to(front.dtype) / (1.0 - self._dropout)
