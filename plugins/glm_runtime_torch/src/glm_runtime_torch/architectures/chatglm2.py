"""ChatGLM2-6B, ChatGLM3-6B and GLM-4-9B: causal decoders with multi-query attention.

How they differ from ChatGLM-6B (v1), and from the common decoder:

- **Multi-query attention**: a few groups of keys and values serve all query heads; the KV cache
  holds the groups, unexpanded. The fused rows are all query heads, then the keys, then the values.
- **Half rotary, interleaved**: only the first half of a head's channels is rotated, channel ``2i``
  together with ``2i + 1``; the rest carries no position.
- **RMSNorm** before attention and MLP with ordinary residuals, and a **SwiGLU** MLP.
- The head has weights of its own.

`glm_runtime_torch.network.attention` and every backend's kernel rotate channel ``i`` with ``i + d/2``. So
the rotated channels of queries and keys are reordered once after their projection, even ones first: one
attention serves every family, and the products of queries and keys do not change. The half that is not
rotated has a row of positions that is always 0.

Axes: B batch · T new tokens · S key positions · D hidden · N query heads · G key/value heads
      H head dim · V vocabulary · R position rows (2: rotated half, other half) · L layers
Source: GLM-130B, arXiv:2210.02414; multi-query attention, arXiv:1911.02150; the published code.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..checkpoints.published_sizes import (
    MAX_CHANNELS,
    MAX_CONTEXT_LENGTH,
    MAX_HEAD_DIM,
    MAX_HEADS,
    MAX_LAYERS,
    MAX_PREFIX_LENGTH,
    MAX_TOKEN_ID,
    MAX_VOCABULARY,
    TokenIds,
)
from ..checkpoints.record_file import FileRecord, limit_integer, limit_number, parse_record
from ..network.decoder import DecoderBlock, DecoderModel
from ..network.language_model import Dimensions, PartNames
from ..network.layout import CausalLayout
from ..network.prefix_encoder import PrefixEncoder
from ..network.rotary import RotaryEmbedding

ROPE_BASE = 10000.0


class ConfigFile(FileRecord):
    """What is read of a ``config.json``; see `ChatGLM2Config` for what the keys mean.

    The last four keys describe variants of the network of which only one was ever published.
    """

    num_attention_heads: Annotated[int, limit_integer(1, MAX_HEADS)]
    padded_vocab_size: Annotated[int, limit_integer(1, MAX_VOCABULARY)]
    kv_channels: Annotated[int, limit_integer(1, MAX_HEAD_DIM)]
    seq_length: Annotated[int, limit_integer(1, MAX_CONTEXT_LENGTH)]
    multi_query_attention: bool = False
    multi_query_group_num: Annotated[int, limit_integer(1, MAX_HEADS)] = 1
    hidden_size: Annotated[int, limit_integer(1, MAX_CHANNELS)] = 4096
    num_layers: Annotated[int, limit_integer(1, MAX_LAYERS)] = 28
    ffn_hidden_size: Annotated[int, limit_integer(1, MAX_CHANNELS)] = 13696
    layernorm_epsilon: Annotated[float, limit_number(0, 1)] = 1e-5
    add_qkv_bias: bool = True
    add_bias_linear: bool = False
    rope_ratio: Annotated[float, limit_number(0.001, 1e6)] | None = None
    eos_token_id: TokenIds = 2
    pad_token_id: Annotated[int, limit_integer(0, MAX_TOKEN_ID)] | None = 0
    pre_seq_len: Annotated[int, limit_integer(1, MAX_PREFIX_LENGTH)] | None = None
    prefix_projection: bool = False
    rmsnorm: Literal[True] = True
    post_layer_norm: Literal[True] = True
    apply_residual_connection_post_layernorm: Literal[False] = False
    original_rope: Literal[True] = True


@dataclass(frozen=True)
class ChatGLM2Config:
    """The network's shape, with the field's names; defaults are ChatGLM2-6B's.

    Attributes:
        rope_base: frequency of channel pair i is ``rope_base ** (-2i / d)``.
        rope_interpolation: positions are divided by it.
    """

    vocab_size: int = 65024
    hidden_size: int = 4096
    num_layers: int = 28
    num_heads: int = 32
    num_kv_heads: int = 2
    head_dim: int = 128
    ffn_hidden_size: int = 13696
    layernorm_epsilon: float = 1e-5
    max_sequence_length: int = 32768
    add_qkv_bias: bool = True
    add_bias_linear: bool = False
    rope_base: float = ROPE_BASE
    rope_interpolation: float = 1.0
    eos_token_id: int = 2
    pad_token_id: int = 0
    pre_seq_len: int | None = None
    prefix_projection: bool = False

    def __post_init__(self) -> None:
        if self.num_heads % self.num_kv_heads:
            raise ValueError(
                f"num_attention_heads {self.num_heads} is not a multiple of multi_query_group_num "
                f"{self.num_kv_heads}"
            )
        if self.head_dim % 4:
            raise ValueError(
                f"kv_channels {self.head_dim} is not a multiple of 4, which rotary positions need"
            )

    @property
    def dimensions(self) -> Dimensions:
        """The sizes of the network that this describes."""
        return Dimensions(
            num_layers=self.num_layers,
            hidden_size=self.hidden_size,
            num_heads=self.num_heads,
            num_kv_heads=self.num_kv_heads,
            head_dim=self.head_dim,
            vocab_size=self.vocab_size,
            context_length=self.max_sequence_length,
            eos_token_id=self.eos_token_id,
        )

    @classmethod
    def from_checkpoint(cls, config: Mapping[str, Any], *, interpolates: bool = False) -> ChatGLM2Config:
        """Read the published ``config.json``.

        Args:
            config: its content.
            interpolates: whether ``rope_ratio`` divides positions (ChatGLM2) instead of multiplying
                the base (ChatGLM3, GLM-4).

        Raises:
            ValueError: a key is missing or cannot be, or keys do not fit together.
        """
        read = parse_record(ConfigFile, config)
        heads, ratio = read.num_attention_heads, float(read.rope_ratio or 1)
        ends = read.eos_token_id
        return cls(
            vocab_size=read.padded_vocab_size,
            hidden_size=read.hidden_size,
            num_layers=read.num_layers,
            num_heads=heads,
            num_kv_heads=read.multi_query_group_num if read.multi_query_attention else heads,
            head_dim=read.kv_channels,
            ffn_hidden_size=read.ffn_hidden_size,
            layernorm_epsilon=read.layernorm_epsilon,
            max_sequence_length=read.seq_length,
            add_qkv_bias=read.add_qkv_bias,
            add_bias_linear=read.add_bias_linear,
            rope_base=ROPE_BASE if interpolates else ROPE_BASE * ratio,
            rope_interpolation=ratio if interpolates else 1.0,
            eos_token_id=ends[0] if isinstance(ends, list) else ends,
            pad_token_id=0 if read.pad_token_id is None else read.pad_token_id,
            pre_seq_len=read.pre_seq_len,
            prefix_projection=read.prefix_projection,
        )


class ChatGLM2Attention(nn.Module):
    """The two projections around grouped attention; the product is `network.attention`'s."""

    def __init__(self, config: ChatGLM2Config) -> None:
        super().__init__()
        self.sizes = [
            heads * config.head_dim for heads in (config.num_heads, config.num_kv_heads, config.num_kv_heads)
        ]
        self.head_dim = config.head_dim
        bias = config.add_qkv_bias or config.add_bias_linear
        self.query_key_value = nn.Linear(config.hidden_size, sum(self.sizes), bias=bias)
        self.dense = nn.Linear(self.sizes[0], config.hidden_size, bias=config.add_bias_linear)

    def project(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return queries ``[B, N, T, H]``, keys and values ``[B, G, T, H]``, not rotated yet."""
        q, k, v = (
            part.unflatten(-1, (-1, self.head_dim)).transpose(1, 2)
            for part in self.query_key_value(x).split(self.sizes, dim=-1)
        )
        return put_even_channels_first(q), put_even_channels_first(k), v


class ChatGLM2MLP(nn.Module):
    """SwiGLU: the first half of a double-width layer gates the second."""

    def __init__(self, config: ChatGLM2Config) -> None:
        super().__init__()
        inner, bias = config.ffn_hidden_size, config.add_bias_linear
        self.dense_h_to_4h = nn.Linear(config.hidden_size, 2 * inner, bias=bias)
        self.dense_4h_to_h = nn.Linear(inner, config.hidden_size, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``[B, T, D]`` to ``[B, T, D]``."""
        gate, value = self.dense_h_to_4h(x).chunk(2, dim=-1)
        return self.dense_4h_to_h(F.silu(gate) * value)


class ChatGLM2Layer(DecoderBlock):
    """One pre-norm block."""

    def __init__(self, config: ChatGLM2Config, layer: int) -> None:
        super().__init__(layer)
        self.input_layernorm = nn.RMSNorm(config.hidden_size, config.layernorm_epsilon)
        self.self_attention = ChatGLM2Attention(config)
        self.post_attention_layernorm = nn.RMSNorm(config.hidden_size, config.layernorm_epsilon)
        self.mlp = ChatGLM2MLP(config)

    def project(self, h: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return the residual ``[B, T, D]``, and queries, keys and values ``[B, N or G, T, H]``."""
        return (h, *self.self_attention.project(self.input_layernorm(h)))

    def finish(self, residual: Tensor, context: Tensor) -> Tensor:
        """Return the block's output from its residual and the context ``[B, T, N * H]`` of its attention."""
        h = residual + self.self_attention.dense(context)
        return h + self.mlp(self.post_attention_layernorm(h))


def put_even_channels_first(x: Tensor) -> Tensor:
    """Reorder the rotated half of queries or keys ``[..., H]``: channels 0, 2, 4, ..., then 1, 3, 5, ..."""
    rotated, rest = x.chunk(2, dim=-1)
    rotated = rotated.unflatten(-1, (-1, 2)).transpose(-1, -2).flatten(-2)
    return torch.cat((rotated, rest), dim=-1)


class ChatGLM2Embedding(nn.Module):
    """Holds the table under its published name."""

    def __init__(self, config: ChatGLM2Config) -> None:
        super().__init__()
        self.word_embeddings = nn.Embedding(config.vocab_size, config.hidden_size)


class ChatGLM2Encoder(nn.Module):
    """Holds the blocks and the final norm under their published names."""

    def __init__(self, config: ChatGLM2Config) -> None:
        super().__init__()
        self.layers = nn.ModuleList(ChatGLM2Layer(config, layer) for layer in range(config.num_layers))
        self.final_layernorm = nn.RMSNorm(config.hidden_size, config.layernorm_epsilon)


class ChatGLM2Transformer(nn.Module):
    """Holds embeddings, blocks, final norm and, as published, the head."""

    def __init__(self, config: ChatGLM2Config) -> None:
        super().__init__()
        self.embedding = ChatGLM2Embedding(config)
        self.encoder = ChatGLM2Encoder(config)
        self.output_layer = nn.Linear(config.hidden_size, config.vocab_size, bias=config.add_bias_linear)
        if config.pre_seq_len is not None:
            self.prefix_encoder = build_prefix_encoder(config)


class ChatGLM2(DecoderModel):
    """The language model.

    Args:
        config: the shape.
    """

    part_names = PartNames(
        embedding="transformer.embedding.word_embeddings",
        blocks="transformer.encoder.layers",
        final_norm="transformer.encoder.final_layernorm",
        head="transformer.output_layer",
    )

    def __init__(self, config: ChatGLM2Config) -> None:
        # Positions are computed in float32, also where ChatGLM2's own code rounds to float16, which
        # cannot tell positions above 2048 apart.
        rotary = RotaryEmbedding(
            config.head_dim // 2, base=config.rope_base, interpolation=config.rope_interpolation
        )
        super().__init__(config.dimensions, rotary)
        self.config = config
        self.transformer = ChatGLM2Transformer(config)

    def find_layout(self, prompt: Sequence[int]) -> CausalLayout:
        """Return where the tokens of a sequence stand; see `CausalLayout`."""
        return CausalLayout(rows=2)


class ChatGLM2PrefixEncoder(PrefixEncoder):
    """A prefix whose stored keys have their channels in the published order."""

    def forward(self) -> Tensor:
        """Return what `PrefixEncoder.forward` does; keys as `ChatGLM2Attention.project` orders them."""
        keys, values = super().forward().unbind(dim=1)
        return torch.stack((put_even_channels_first(keys), values), dim=1)  # [L, 2, G, P, H]


def build_prefix_encoder(
    config: ChatGLM2Config, pre_seq_len: int | None = None, prefix_projection: bool | None = None
) -> PrefixEncoder:
    """Return a prefix encoder of this model's shape; unnamed settings are the configuration's."""
    length = config.pre_seq_len if pre_seq_len is None else pre_seq_len
    if not length:
        raise ValueError(f"pre_seq_len must be a positive number of tokens, got {length}")
    projection = config.prefix_projection if prefix_projection is None else prefix_projection
    kv_size = config.num_layers * 2 * config.num_kv_heads * config.head_dim
    inner = (kv_size, config.hidden_size) if projection else None
    return ChatGLM2PrefixEncoder(length, config.num_layers, config.num_kv_heads, config.head_dim, inner)
