"""Reading the ``config.json`` of a family that transformers defines, before transformers sees it.

Transformers takes whatever a file says, and some of it builds what nobody needs (``num_labels`` makes a table
of as many labels). So only the keys that make the network are handed on, each checked.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import ConfigDict
from transformers import AutoConfig
from transformers.activations import ACT2FN

from ..checkpoints.published_sizes import (
    MAX_CHANNELS,
    MAX_CONTEXT_LENGTH,
    MAX_EXPERTS,
    MAX_HEAD_DIM,
    MAX_HEADS,
    MAX_LAYERS,
    MAX_TOKEN_ID,
    MAX_VOCABULARY,
    TokenIds,
)
from ..checkpoints.record_file import (
    FieldError,
    FileRecord,
    format_value,
    limit_integer,
    limit_number,
    parse_record,
)

RopeType = Literal["default", "linear", "yarn"]
"""What keeps the angles of a position the same as a text grows, as a KV cache needs it."""


class RopeFile(FileRecord):
    """How positions become angles; an unknown key would change every answer, so it is refused."""

    model_config = ConfigDict(extra="forbid")

    rope_type: RopeType | None = None
    type: RopeType | None = None
    rope_theta: Annotated[float, limit_number(1, 1e12)] | None = None
    partial_rotary_factor: Annotated[float, limit_number(0.01, 1)] | None = None
    factor: Annotated[float, limit_number(1, 1e4)] | None = None
    original_max_position_embeddings: Annotated[int, limit_integer(1, MAX_CONTEXT_LENGTH)] | None = None
    attention_factor: Annotated[float, limit_number(0, 1e4)] | None = None
    beta_fast: Annotated[float, limit_number(0.01, 1e4)] | None = None
    beta_slow: Annotated[float, limit_number(0.01, 1e4)] | None = None
    mscale: Annotated[float, limit_number(0, 1e4)] | None = None
    mscale_all_dim: Annotated[float, limit_number(0, 1e4)] | None = None
    truncate: bool | None = None


class NativeFile(FileRecord):
    """What is read of a ``config.json``; what it leaves out is as transformers has it."""

    vocab_size: Annotated[int, limit_integer(1, MAX_VOCABULARY)] = 1
    hidden_size: Annotated[int, limit_integer(1, MAX_CHANNELS)] = 1
    intermediate_size: Annotated[int, limit_integer(1, MAX_CHANNELS)] = 1
    num_hidden_layers: Annotated[int, limit_integer(1, MAX_LAYERS)] = 1
    num_attention_heads: Annotated[int, limit_integer(1, MAX_HEADS)] = 1
    num_key_value_heads: Annotated[int, limit_integer(1, MAX_HEADS)] = 1
    head_dim: Annotated[int, limit_integer(1, MAX_HEAD_DIM)] | None = None
    max_position_embeddings: Annotated[int, limit_integer(1, MAX_CONTEXT_LENGTH)] = 1
    hidden_act: str = ""
    rms_norm_eps: Annotated[float, limit_number(0, 1)] = 0
    attention_bias: bool = False
    attention_dropout: Annotated[float, limit_number(0, 1)] = 0
    initializer_range: Annotated[float, limit_number(0, 100)] = 0
    tie_word_embeddings: bool = False
    rope_parameters: RopeFile | None = None
    rope_scaling: RopeFile | None = None
    rope_theta: Annotated[float, limit_number(1, 1e12)] = 1
    partial_rotary_factor: Annotated[float, limit_number(0.01, 1)] = 1
    bos_token_id: Annotated[int, limit_integer(0, MAX_TOKEN_ID)] | None = None
    pad_token_id: Annotated[int, limit_integer(0, MAX_TOKEN_ID)] | None = None
    eos_token_id: TokenIds | None = None


class MixtureFile(NativeFile):
    """The same of a mixture of experts."""

    moe_intermediate_size: Annotated[int, limit_integer(1, MAX_CHANNELS)] = 1
    num_experts_per_tok: Annotated[int, limit_integer(1, MAX_EXPERTS)] = 1
    n_shared_experts: Annotated[int, limit_integer(1, MAX_EXPERTS)] = 1
    n_routed_experts: Annotated[int, limit_integer(1, MAX_EXPERTS)] = 1
    n_group: Annotated[int, limit_integer(1, MAX_EXPERTS)] = 1
    topk_group: Annotated[int, limit_integer(1, MAX_EXPERTS)] = 1
    first_k_dense_replace: Annotated[int, limit_integer(0, MAX_LAYERS)] = 0
    routed_scaling_factor: Annotated[float, limit_number(0, 1e4)] = 1
    norm_topk_prob: bool = True
    use_qk_norm: bool = False


def read_config(raw: Mapping[str, Any]) -> Any:
    """Return transformers' configuration of a ``config.json``.

    Raises:
        ValueError: a key cannot be, or keys do not fit together.
    """
    model_type: str = raw["model_type"]
    record = parse_record(MixtureFile if model_type.endswith("_moe") else NativeFile, raw)
    kept = record.model_dump(exclude_unset=True)
    for key in ("rope_parameters", "rope_scaling"):
        if kept.get(key) is not None:
            kept[key] = {name: value for name, value in kept[key].items() if value is not None}
    if kept.get("hidden_act", "silu") not in ACT2FN:
        known = ", ".join(name for name in ACT2FN if "silu" in name or "gelu" in name)
        raise FieldError(
            f"hidden_act is {format_value(kept['hidden_act'])}, the name of an activation such as {known} is "
            "expected"
        )
    try:
        config = AutoConfig.for_model(model_type, **kept)
    except Exception as error:  # transformers checks with errors of several libraries
        raise FieldError(" ".join(str(error).split())[:300]) from error
    _check_fit(config)
    return config


def count_tensors(config: Any) -> int:
    """Return how many tensors the files of such a network hold at least."""
    layers: int = config.num_hidden_layers
    mixtures = max(0, layers - config.first_k_dense_replace) if is_mixture(config) else 0
    return layers + mixtures * 3 * (config.n_routed_experts if mixtures else 0)


def is_mixture(config: Any) -> bool:
    """Return whether a network has experts."""
    return hasattr(config, "n_routed_experts")


def find_head_dim(config: Any) -> int:
    """Return the channels of one attention head."""
    return getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads


def _check_fit(config: Any) -> None:
    """Refuse keys that are possible each, but not together.

    Raises:
        FieldError: naming both keys and their values.
    """
    if config.eos_token_id is None:
        raise FieldError("eos_token_id is missing, a token id or a list of some is expected")
    ends = config.eos_token_id if isinstance(config.eos_token_id, list) else [config.eos_token_id]
    for key, ids in (("eos_token_id", ends), ("pad_token_id", [config.pad_token_id])):
        if max((one for one in ids if one is not None), default=0) >= config.vocab_size:
            raise FieldError(f"{key} {max(ids)} is beyond vocab_size {config.vocab_size}")
    heads, shared = config.num_attention_heads, config.num_key_value_heads
    if heads % shared:
        raise FieldError(f"num_attention_heads {heads} is not a multiple of num_key_value_heads {shared}")
    if not getattr(config, "head_dim", None) and config.hidden_size % heads:
        raise FieldError(f"hidden_size {config.hidden_size} is not a multiple of num_attention_heads {heads}")
    head_dim, rope = find_head_dim(config), config.rope_parameters or {}
    rotary_dim = int(head_dim * (rope.get("partial_rotary_factor") or 1.0))
    if rotary_dim < 2 or rotary_dim % 2:
        raise FieldError(
            f"head_dim {head_dim} with its partial_rotary_factor rotates {rotary_dim} channels; an even "
            "number is needed"
        )
    if rope.get("rope_type", "default") != "default" and "factor" not in rope:
        raise FieldError(f"rope_parameters of the type {rope['rope_type']} have no factor")
    if is_mixture(config):
        _check_experts(config)


def _check_experts(config: Any) -> None:
    experts, groups = config.n_routed_experts, config.n_group
    # A group's score is the sum of its best two.
    if experts % groups or (groups > 1 and experts // groups < 2):
        raise FieldError(
            f"n_routed_experts {experts} do not divide into n_group {groups} of at least two each"
        )
    if config.topk_group > groups:
        raise FieldError(f"topk_group {config.topk_group} is more than n_group {groups}")
    eligible = config.topk_group * (experts // groups)
    if config.num_experts_per_tok > eligible:
        raise FieldError(
            f"num_experts_per_tok {config.num_experts_per_tok} is more than the {eligible} to choose from"
        )
