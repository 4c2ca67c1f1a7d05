"""ChatGLM-6B's published ``config.json`` as a transformers configuration."""

from __future__ import annotations

from typing import Any

from transformers import PreTrainedConfig

from glm_core import CheckpointError

from ..architectures.chatglm import ChatGLMConfig as NetworkConfig
from ..checkpoints.foreign_formats import KEYS as FORMAT_KEYS


class ChatGLMConfig(PreTrainedConfig):
    """Keys as published; `make_network_config` gives them the field's names.

    Args:
        kwargs: the keys of ``config.json``; the defaults are ChatGLM-6B v1.1's.
    """

    model_type = "chatglm"
    attribute_map = {"num_hidden_layers": "num_layers"}  # noqa: RUF012 - transformers' own form

    vocab_size: int = 130528
    hidden_size: int = 4096
    num_layers: int = 28
    num_attention_heads: int = 32
    inner_hidden_size: int = 16384
    layernorm_epsilon: float = 1e-5
    max_sequence_length: int = 2048
    position_encoding_2d: bool = True
    use_cache: bool = True
    bos_token_id: int = 130004
    eos_token_id: int = 130005
    mask_token_id: int = 130000
    gmask_token_id: int = 130001
    pad_token_id: int = 3
    pre_seq_len: int | None = None
    prefix_projection: bool = False
    quantization_bit: int = 0
    quantization_embeddings: bool = False
    tie_word_embeddings: bool = True

    def __post_init__(self, **kwargs: Any) -> None:
        """Refuse the successors, which have the same ``model_type`` and another network.

        Raises:
            CheckpointError: the keys are those of ChatGLM2, ChatGLM3 or GLM-4.
        """
        if "multi_query_group_num" in kwargs:
            raise CheckpointError(
                "transformers' auto classes take ChatGLM-6B here; this config.json is of a later model "
                f"({kwargs.get('_name_or_path') or 'ChatGLM2, ChatGLM3 or GLM-4'}). Load it with "
                "glm_core.load(path), or chat with: glm run cli --model PATH"
            )
        # Kept from transformers, which would put layers into the network that nothing of ours knows.
        self.stored_formats = {key: kwargs.pop(key) for key in FORMAT_KEYS if key in kwargs}
        super().__post_init__(**kwargs)

    def to_dict(self) -> dict[str, Any]:
        """Return what is written to ``config.json``: no word of a format that loading has undone."""
        return {key: value for key, value in super().to_dict().items() if key != "stored_formats"}

    def make_network_config(self) -> NetworkConfig:
        """Return the shape of the network.

        Raises:
            CheckpointError: a key is missing or cannot be, or keys do not fit together.
        """
        try:
            return NetworkConfig.from_checkpoint(self.to_published())
        except ValueError as error:
            where = self._name_or_path or "the configuration"
            raise CheckpointError(f"{where}: {error}; correct config.json, or download it again.") from error

    def to_published(self) -> dict[str, Any]:
        """Return the keys and values of a ``config.json``."""
        return dict(self.to_dict())
