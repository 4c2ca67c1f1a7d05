"""The hooks of the PyTorch runtime, which opens, quantises and answers with models of the ChatGLM family."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from glm_core import hookimpl
from glm_core.records import (
    ChatRequest,
    Delta,
    ModelCard,
    ModelMatch,
    ModelSource,
    QuantizeJob,
    QuantizeProgress,
    RuntimeInfo,
)

if TYPE_CHECKING:
    from .model.torch_model import TorchModel

GLM_API_VERSION = 2


@hookimpl
def describe_runtime() -> RuntimeInfo:
    """Say what ``--runtime`` calls this runtime, and ``--family`` its models; devices are the backends'."""
    from .families.names import FAMILY_NAMES

    return RuntimeInfo("torch", "checkpoints of the ChatGLM family, with PyTorch", families=FAMILY_NAMES)


@hookimpl
def describe_models() -> tuple[ModelCard, ...]:
    """Return the published models that this runtime can run."""
    from .families.catalogue import CARDS

    return CARDS


@hookimpl
def identify_model(source: ModelSource) -> ModelMatch | None:
    """Recognise a checkpoint directory by its ``config.json``, and an object by its class."""
    from .families.recognition import identify

    return identify(source)


@hookimpl
def load_model(source: ModelSource, dtype: str) -> TorchModel | None:
    """Open a checkpoint directory, or adopt a transformers model in memory; ``None`` for anything else."""
    from .loading import open_source  # here, so that start-up does not pay for torch

    return open_source(source, dtype)


@hookimpl
def chat_stream(model: object, request: ChatRequest) -> Iterator[Delta] | None:
    """Stream the answer of the model's engine; ``None`` for a model of another runtime."""
    from .model.torch_model import TorchModel  # loaded already if the model is ours

    return model.stream(request) if isinstance(model, TorchModel) else None


@hookimpl
def quantize_checkpoint(source: ModelSource, job: QuantizeJob) -> Iterator[QuantizeProgress] | None:
    """Write a quantised copy of a checkpoint directory; ``None`` for a family that is not known."""
    from .quantize_job.job import quantize_checkpoint as write  # here: start-up does not pay for torch

    return write(source, job)
