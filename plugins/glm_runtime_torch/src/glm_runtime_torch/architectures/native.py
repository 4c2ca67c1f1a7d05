"""Families whose networks transformers defines itself, behind this runtime's interface: glm, glm4, glm4_moe.

The blocks are transformers' own; what is ours is the walk through them and where keys and values go: an
attention function that transformers calls with rotated queries, keys and values of the new tokens. These
families are causal, so a chunk of a prompt passes a block at once.

Axes: B batch · T new tokens · S key positions · N query heads · G key/value heads · H head dim
      D hidden · V vocabulary · P prefix length
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import AutoModelForCausalLM
from transformers.modeling_utils import AttentionInterface

from ..network.attention import AttendingStore, KeyValueStore, compute_attention
from ..network.kv_cache import PrefillRows
from ..network.language_model import Dimensions, LanguageModel, PartNames
from ..network.layout import CausalLayout
from ..network.prefix_encoder import PrefixEncoder
from ..network.rotary import Rotary
from .native_config import find_head_dim

ATTENTION = "glm_runtime_torch"


@dataclass(frozen=True)
class _Chunk:
    """Where the keys and values of a piece of a prompt go."""

    rows: PrefillRows
    start: int


Store = KeyValueStore | AttendingStore | _Chunk | None


def _attend(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    store: Store = None,
    **_: Any,
) -> tuple[Tensor, None]:
    """Attend for the blocks: rotated q ``[B, N, T, H]``, k and v ``[B, G, T, H]`` to ``[B, T, N * H]``."""
    layer: int = module.layer_idx  # type: ignore[assignment]
    if isinstance(store, _Chunk):
        store.rows.put(key, value, layer, store.start)
        return store.rows.attend(query, layer, store.start), None
    if isinstance(store, AttendingStore):
        return store.attend(query, key, value, _make_zero_rotation(query), layer), None
    if store is not None:
        key, value = store.update(key, value, layer)
    return compute_attention(query, key, value, attention_mask), None


def _make_zero_rotation(query: Tensor) -> Rotary:
    """Return angles of zero for decode kernels, which rotate what they are given."""
    shape = (query.shape[0], 1, query.shape[2], 1, query.shape[-1])
    return Rotary(query.new_ones(shape), query.new_zeros(shape))


AttentionInterface.register(ATTENTION, _attend)


class NativeModel(LanguageModel):
    """A causal language model of transformers.

    Args:
        config: transformers' configuration.
    """

    part_names = PartNames(
        embedding="model.embed_tokens", blocks="model.layers", final_norm="model.norm", head="lm_head"
    )

    def __init__(self, config: Any) -> None:
        super().__init__(read_dimensions(config))
        self.config = config
        causal = AutoModelForCausalLM.from_config(config, attn_implementation=ATTENTION)
        self.model = causal.model
        self.lm_head = causal.lm_head
        with torch.device("cpu"):  # its frequencies are no weights: no checkpoint would fill them
            self.model.rotary_emb = type(self.model.rotary_emb)(config=config)
        if config.tie_word_embeddings:
            self.lm_head.weight = self.model.embed_tokens.weight
        for block in self.blocks:
            if hasattr(block.mlp, "experts"):
                _use_own_experts(block.mlp, config)

    def forward(
        self,
        input_ids: Tensor,
        position_ids: Tensor,
        attention_mask: Tensor | None,
        store: KeyValueStore | AttendingStore | None = None,
        *,
        wanted: Tensor | None = None,
    ) -> Tensor:
        """Return logits; see `LanguageModel.forward`. One row of positions: R is 1."""
        h, angles = self._embed(input_ids, position_ids)
        for layer, block in enumerate(self.blocks):
            if self.route is not None:
                h, angles, attention_mask = self.route.to_block(layer, h, angles, attention_mask)
            h = block(
                h, attention_mask=attention_mask, position_embeddings=(angles.cos, angles.sin), store=store
            )
        return self._compute_logits(h, wanted)

    def prefill(
        self, input_ids: Tensor, position_ids: Tensor, rows: PrefillRows, chunk_size: int
    ) -> Generator[None, None, Tensor]:
        """Take in one prompt in short steps; see `LanguageModel.prefill`."""
        h, angles = self._embed(input_ids, position_ids)
        for layer, block in enumerate(self.blocks):
            if self.route is not None:
                h, angles, _ = self.route.to_block(layer, h, angles)
            for start in range(0, h.shape[1], chunk_size):
                span = slice(start, start + chunk_size)
                rotary = angles.cos[:, span], angles.sin[:, span]
                chunk = _Chunk(rows, start)
                h[:, span] = block(h[:, span], attention_mask=None, position_embeddings=rotary, store=chunk)
                yield
        return self._compute_logits(h[:, -1])

    def decode(self, input_ids: Tensor, position_ids: Tensor, rows: AttendingStore) -> Tensor:
        """Return logits ``[B, T, V]`` after T more tokens a row; see `LanguageModel.decode`."""
        return self.forward(input_ids, position_ids, None, rows)

    def find_layout(self, prompt: Sequence[int]) -> CausalLayout:
        """Return where the tokens of a sequence stand; see `CausalLayout`."""
        return CausalLayout()

    def _embed(self, input_ids: Tensor, position_ids: Tensor) -> tuple[Tensor, Rotary]:
        """Return embeddings ``[B, T, D]``, and angles as transformers has them: ``[B, T, rotary_dim]``."""
        h = self.embedding(input_ids).to(self.model.norm.weight.dtype)
        if self.model.rotary_emb.inv_freq.device != h.device:  # once; a recorded step must not copy
            self.model.rotary_emb.to(h.device)
        return h, Rotary(*self.model.rotary_emb(h, position_ids=position_ids[:, 0]))

    def _compute_logits(self, h: Tensor, wanted: Tensor | None = None) -> Tensor:
        route = self.route
        h = self.final_norm(h if route is None else route.to_norm(h))
        h = h if wanted is None else h[wanted.to(h.device)]
        return self.head(h if route is None else route.to_head(h))


class Expert(nn.Module):
    """One gated MLP of a mixture, under its published names."""

    def __init__(self, hidden_size: int, inner_size: int) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(hidden_size, inner_size, bias=False)
        self.up_proj = nn.Linear(hidden_size, inner_size, bias=False)
        self.down_proj = nn.Linear(inner_size, hidden_size, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``[T, D]`` to ``[T, D]``."""
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))


class Experts(nn.ModuleList):
    """A mixture's experts as linear layers, which can be read one by one and quantised like all others.

    Transformers stacks them into two tensors, which no published file holds.
    """

    def forward(self, x: Tensor, chosen: Tensor, weights: Tensor) -> Tensor:
        """Return the weighted sum of each token's experts, added in the order of their numbers.

        Args:
            x: ``[T, D]``.
            chosen: ``[T, K]`` int64, numbers of each token's experts.
            weights: ``[T, K]``.
        """
        result = torch.zeros_like(x)
        for number in chosen.unique().tolist():
            tokens, place = (chosen == number).nonzero(as_tuple=True)
            part = self[number](x[tokens]) * weights[tokens, place, None]
            result.index_add_(0, tokens, part.to(result.dtype))
        return result


def _use_own_experts(mlp: Any, config: Any) -> None:
    count, inner = config.n_routed_experts, config.moe_intermediate_size
    mlp.experts = Experts(Expert(config.hidden_size, inner) for _ in range(count))
    bias = mlp.gate.e_score_correction_bias  # stored like a weight, so it is one here
    del mlp.gate.e_score_correction_bias
    mlp.gate.e_score_correction_bias = nn.Parameter(bias, requires_grad=False)


def read_dimensions(config: Any) -> Dimensions:
    """Return the sizes of the network that a configuration describes."""
    ends = config.eos_token_id
    return Dimensions(
        num_layers=config.num_hidden_layers,
        hidden_size=config.hidden_size,
        num_heads=config.num_attention_heads,
        num_kv_heads=config.num_key_value_heads,
        head_dim=find_head_dim(config),
        vocab_size=config.vocab_size,
        context_length=config.max_position_embeddings,
        eos_token_id=ends[0] if isinstance(ends, list) else ends,
    )


def build_prefix_encoder(config: Any, pre_seq_len: int, prefix_projection: bool) -> PrefixEncoder:
    """Return a prefix encoder of this model's shape."""
    sizes = read_dimensions(config)
    kv_size = sizes.num_layers * 2 * sizes.num_kv_heads * sizes.head_dim
    inner = (kv_size, config.hidden_size) if prefix_projection else None
    return PrefixEncoder(pre_seq_len, sizes.num_layers, sizes.num_kv_heads, sizes.head_dim, inner)
