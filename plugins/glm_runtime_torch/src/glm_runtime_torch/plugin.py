"""The hooks of the PyTorch runtime: it loads ChatGLM checkpoints and chats with them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from glm_core import hookimpl
from glm_core.records import ChatRequest, Delta, ModelCard, ModelSource, QuantizeJob, QuantizeProgress

if TYPE_CHECKING:
    from .model import TorchModel

GLM_API_VERSION = 1


@hookimpl
def describe_models() -> tuple[ModelCard, ...]:
    """The published models that this runtime can run."""
    license_name = "ChatGLM-6B Model License"
    return (
        ModelCard(
            "chatglm-6b",
            "ChatGLM-6B v1.1, Chinese and English, 6.2 billion parameters",
            hub_id="THUDM/chatglm-6b",
            modelscope_id="ZhipuAI/ChatGLM-6B",
            aliases=("THUDM/chatglm-6b", "zai-org/chatglm-6b"),
            license=license_name,
        ),
        ModelCard(
            "chatglm-6b-int8",
            "ChatGLM-6B quantised to int8 by its authors",
            hub_id="THUDM/chatglm-6b-int8",
            aliases=("THUDM/chatglm-6b-int8", "zai-org/chatglm-6b-int8"),
            license=license_name,
        ),
        ModelCard(
            "chatglm-6b-int4",
            "ChatGLM-6B quantised to int4 by its authors",
            hub_id="THUDM/chatglm-6b-int4",
            aliases=("THUDM/chatglm-6b-int4", "zai-org/chatglm-6b-int4"),
            license=license_name,
        ),
    )


@hookimpl
def load_model(source: ModelSource, dtype: str) -> TorchModel | None:
    """Open a checkpoint directory, or adopt a model that is already in memory."""
    from .loading import open_source  # here, so that start-up does not pay for torch

    return open_source(source, dtype)


@hookimpl
def chat_stream(model: object, request: ChatRequest) -> Iterator[Delta] | None:
    """Stream from the model's engine."""
    from .model import TorchModel  # loaded already if the model is ours

    return model.stream(request) if isinstance(model, TorchModel) else None


@hookimpl
def quantize_checkpoint(source: ModelSource, job: QuantizeJob) -> Iterator[QuantizeProgress] | None:
    """Write a quantised copy of a checkpoint directory of a known family."""
    from .checkpoints.quantize import quantize_checkpoint as write  # here: start-up does not pay for torch

    return write(source, job)
