"""ChatGLM-6B (v1): a prefix language model with deep-norm residuals and 2D rotary positions.

How it differs from the decoder-only relatives:

- **Prefix LM**: the context (everything before ``<sop>``) sees itself in both directions;
  from ``<sop>`` on the model is causal.
- **2D positions**: the first half of each head is rotated by the position in the context, which
  stays at the ``[gMASK]`` for the whole answer; the second half by the position in the answer.
- **Deep norm**: a block adds to ``alpha * LayerNorm(x)``, never to ``x`` itself.
- The fused query/key/value rows are ordered per head: q, k, v of head 0, then of head 1, ...

Module names are those of the published checkpoints: no table translates tensor names, a ``device_map``
written for the original still means the same, and transformers' own loader works.

Axes: B batch · T new tokens · S key positions · D hidden · N heads · H head dim · V vocabulary
      R position rows (2, or 1 without 2D positions) · P prefix length · L layers
Source: GLM, arXiv:2103.10360; GLM-130B (deep norm), arXiv:2210.02414.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import torch
from torch import Tensor, nn

from ..checkpoints.published_sizes import (
    MAX_CHANNELS,
    MAX_CONTEXT_LENGTH,
    MAX_HEADS,
    MAX_LAYERS,
    MAX_PREFIX_LENGTH,
    MAX_TOKEN_ID,
    MAX_VOCABULARY,
)
from ..checkpoints.record_file import FieldError, FileRecord, limit_integer, limit_number, parse_record
from ..network.decoder import DecoderBlock, DecoderModel
from ..network.fused import apply_linear_gelu, normalize_sum
from ..network.language_model import Dimensions, PartNames
from ..network.prefix_encoder import PrefixEncoder
from ..network.rotary import RotaryEmbedding

# sqrt(2 * 28). The original never passes its layer count to the block, whose default is 28, so
# this is the constant that all weights of the family were trained with, also smaller models'.
DEEP_NORM_ALPHA = 56.0**0.5
# The original's slider goes to twice the length that the model was trained with.
CONTEXT_LENGTH_FACTOR = 2
# v1.0 had 20,000 image tokens in front of its words; all ids of text were higher by as many.
VOCABULARY_OF_V1_0 = 150528
TokenId = Annotated[int, limit_integer(0, MAX_TOKEN_ID)]


class ConfigFile(FileRecord):
    """What is read of a ``config.json``; see `ChatGLMConfig` for what the keys mean."""

    num_attention_heads: Annotated[int, limit_integer(1, MAX_HEADS)]
    vocab_size: Annotated[int, limit_integer(1, MAX_VOCABULARY)] = 130528
    hidden_size: Annotated[int, limit_integer(1, MAX_CHANNELS)] = 4096
    num_layers: Annotated[int, limit_integer(1, MAX_LAYERS)] = 28
    inner_hidden_size: Annotated[int, limit_integer(1, MAX_CHANNELS)] = 16384
    layernorm_epsilon: Annotated[float, limit_number(0, 1)] = 1e-5
    max_sequence_length: Annotated[int, limit_integer(1, MAX_CONTEXT_LENGTH)] = 2048
    position_encoding_2d: bool = True
    mask_token_id: TokenId = 130000
    gmask_token_id: TokenId = 130001
    bos_token_id: TokenId = 130004
    eos_token_id: TokenId = 130005
    pad_token_id: TokenId = 3
    pre_seq_len: Annotated[int, limit_integer(1, MAX_PREFIX_LENGTH)] | None = None
    prefix_projection: bool = False


@dataclass(frozen=True)
class ChatGLMConfig:
    """The network's shape, with the field's names; defaults are ChatGLM-6B v1.1's."""

    vocab_size: int = 130528
    hidden_size: int = 4096
    num_layers: int = 28
    num_heads: int = 32
    inner_hidden_size: int = 16384
    layernorm_epsilon: float = 1e-5
    max_sequence_length: int = 2048
    position_encoding_2d: bool = True
    mask_token_id: int = 130000
    gmask_token_id: int = 130001
    bos_token_id: int = 130004
    eos_token_id: int = 130005
    pad_token_id: int = 3
    pre_seq_len: int | None = None
    prefix_projection: bool = False

    def __post_init__(self) -> None:
        if self.hidden_size % self.num_heads:
            raise ValueError(
                f"hidden_size {self.hidden_size} is not a multiple of num_attention_heads {self.num_heads}"
            )
        rows = 2 if self.position_encoding_2d else 1
        if self.head_dim % (2 * rows):
            raise ValueError(
                f"head dim {self.head_dim} is not a multiple of {2 * rows}, which rotary positions need"
            )

    @property
    def head_dim(self) -> int:
        """Channels of one attention head."""
        return self.hidden_size // self.num_heads

    @property
    def dimensions(self) -> Dimensions:
        """The sizes of the network that this describes."""
        return Dimensions(
            num_layers=self.num_layers,
            hidden_size=self.hidden_size,
            num_heads=self.num_heads,
            num_kv_heads=self.num_heads,
            head_dim=self.head_dim,
            vocab_size=self.vocab_size,
            context_length=CONTEXT_LENGTH_FACTOR * self.max_sequence_length,
            eos_token_id=self.eos_token_id,
        )

    @classmethod
    def from_checkpoint(cls, config: Mapping[str, Any]) -> ChatGLMConfig:
        """Read the published ``config.json``, which spells ``num_heads`` its own way.

        Raises:
            ValueError: a key is missing or cannot be, keys do not fit together, or it is v1.0.
        """
        if config.get("vocab_size") == VOCABULARY_OF_V1_0:
            raise FieldError(
                f"it is ChatGLM-6B v1.0 (vocab_size {VOCABULARY_OF_V1_0}, 20,000 of them image tokens), and "
                "v1.1 is expected, whose weights are others; take revision v1.1.0 of the same model"
            )
        read = parse_record(ConfigFile, config).model_dump()
        return cls(num_heads=read.pop("num_attention_heads"), **read)


class ChatGLMAttention(nn.Module):
    """The two projections around multi-head attention; the product is `network.attention`'s."""

    def __init__(self, config: ChatGLMConfig) -> None:
        super().__init__()
        self.num_heads = config.num_heads
        self.head_dim = config.head_dim
        self.query_key_value = nn.Linear(config.hidden_size, 3 * config.hidden_size)
        self.dense = nn.Linear(config.hidden_size, config.hidden_size)

    def project(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return queries, keys and values ``[B, N, T, H]`` of ``x`` ``[B, T, D]``, not rotated yet."""
        qkv = self.query_key_value(x).unflatten(-1, (self.num_heads, 3 * self.head_dim))
        q, k, v = qkv.transpose(1, 2).chunk(3, dim=-1)
        return q, k, v


class ChatGLMMLP(nn.Module):
    """Two linear layers around a tanh-approximated GELU; not gated."""

    def __init__(self, config: ChatGLMConfig) -> None:
        super().__init__()
        self.dense_h_to_4h = nn.Linear(config.hidden_size, config.inner_hidden_size)
        self.dense_4h_to_h = nn.Linear(config.inner_hidden_size, config.hidden_size)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``[B, T, D]`` to ``[B, T, D]``."""
        return self.dense_4h_to_h(apply_linear_gelu(self.dense_h_to_4h, x))


class ChatGLMLayer(DecoderBlock):
    """One block: the residual is the *normalised* input times alpha."""

    def __init__(self, config: ChatGLMConfig, layer: int) -> None:
        super().__init__(layer)
        self.input_layernorm = nn.LayerNorm(config.hidden_size, config.layernorm_epsilon)
        self.attention = ChatGLMAttention(config)
        self.post_attention_layernorm = nn.LayerNorm(config.hidden_size, config.layernorm_epsilon)
        self.mlp = ChatGLMMLP(config)

    def project(self, h: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return the residual ``[B, T, D]``, and queries, keys and values ``[B, N, T, H]``."""
        x = self.input_layernorm(h)
        return (x, *self.attention.project(x))

    def finish(self, residual: Tensor, context: Tensor) -> Tensor:
        """Return the block's output from its residual and the context ``[B, T, N * H]`` of its attention."""
        # The original divides scores by (layer + 1) before the softmax and multiplies after, to
        # keep float16 in range; fused attention accumulates in float32, so it is left out.
        y = normalize_sum(
            self.post_attention_layernorm, residual, self.attention.dense(context), DEEP_NORM_ALPHA
        )
        return torch.add(self.mlp(y), y, alpha=DEEP_NORM_ALPHA)


class ChatGLMTransformer(nn.Module):
    """Holds embeddings, blocks, final norm and perhaps a prefix encoder, under their published names."""

    def __init__(self, config: ChatGLMConfig) -> None:
        super().__init__()
        self.word_embeddings = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(ChatGLMLayer(config, layer) for layer in range(config.num_layers))
        self.final_layernorm = nn.LayerNorm(config.hidden_size, config.layernorm_epsilon)
        if config.pre_seq_len is not None:
            self.prefix_encoder = build_prefix_encoder(config)


class ChatGLM(DecoderModel):
    """The language model; the head shares the embedding's weights.

    Args:
        config: the shape.
    """

    part_names = PartNames(
        embedding="transformer.word_embeddings",
        blocks="transformer.layers",
        final_norm="transformer.final_layernorm",
        head="lm_head",
    )

    def __init__(self, config: ChatGLMConfig) -> None:
        rotary_dim = config.head_dim // (2 if config.position_encoding_2d else 1)
        super().__init__(config.dimensions, RotaryEmbedding(rotary_dim, half_precision_frequencies=True))
        self.config = config
        self.transformer = ChatGLMTransformer(config)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.lm_head.weight = self.transformer.word_embeddings.weight

    def find_layout(self, prompt: Sequence[int]) -> ChatGLMLayout:
        """Return where the tokens of a sequence stand; see `ChatGLMLayout`."""
        return ChatGLMLayout.from_prompt(self.config, prompt)


@dataclass(frozen=True)
class ChatGLMLayout:
    """Positions and visibility of one unpadded sequence, found once from its prompt.

    Attributes:
        context_length: how many leading tokens see each other: all before the first ``<sop>``.
        mask_index: index of the first ``[gMASK]``, or of the first ``[MASK]`` if there is none.
        pinned: whether answer tokens keep the mask's position in row 0. They always do with 2D
            positions; without, only for the short-span ``[MASK]``.
        rows: R, 2 with 2D positions.
    """

    context_length: int
    mask_index: int
    pinned: bool
    rows: int

    @classmethod
    def from_prompt(cls, config: ChatGLMConfig, prompt: Sequence[int]) -> ChatGLMLayout:
        """Read the layout off a prompt.

        Raises:
            ValueError: the prompt holds no mask token or no ``<sop>``.
        """
        tokens = list(prompt)
        if config.bos_token_id not in tokens:
            raise ValueError("the prompt holds no <sop>; the tokenizer ends every prompt with one")
        long_span = config.gmask_token_id in tokens
        mask_id = config.gmask_token_id if long_span else config.mask_token_id
        if mask_id not in tokens:
            raise ValueError("the prompt holds neither [gMASK] nor [MASK]; the tokenizer adds one")
        return cls(
            context_length=tokens.index(config.bos_token_id),
            mask_index=tokens.index(mask_id),
            pinned=config.position_encoding_2d or not long_span,
            rows=2 if config.position_encoding_2d else 1,
        )

    def compute_position_ids(self, start: int, stop: int) -> Tensor:
        """Return positions ``[R, stop - start]`` int64 of those tokens; indices may lie in the answer."""
        index = torch.arange(start, stop)
        in_answer = index >= self.context_length
        first = torch.where(in_answer & self.pinned, self.mask_index, index)
        if self.rows == 1:
            return first.unsqueeze(0)
        return torch.stack((first, torch.where(in_answer, index - self.context_length + 1, 0)))


def build_prefix_encoder(
    config: ChatGLMConfig, pre_seq_len: int | None = None, prefix_projection: bool | None = None
) -> PrefixEncoder:
    """Return a prefix encoder of this model's shape; unnamed settings are the configuration's."""
    length = config.pre_seq_len if pre_seq_len is None else pre_seq_len
    if not length:
        raise ValueError(f"pre_seq_len must be a positive number of tokens, got {length}")
    projection = config.prefix_projection if prefix_projection is None else prefix_projection
    inner = (config.hidden_size, config.hidden_size) if projection else None
    return PrefixEncoder(length, config.num_layers, config.num_heads, config.head_dim, inner)
