"""Opening what the ``load_model`` hook is given: a checkpoint directory, or a transformers model."""

from __future__ import annotations

import torch

from glm_core.records import ModelSource

from .model.directory import open_directory, recognize_family
from .model.torch_model import TorchModel


def open_source(source: ModelSource, dtype: str) -> TorchModel | None:
    """Return a model of this runtime, or ``None`` if the source is not one of ours."""
    if source.model is not None:
        return _adopt(source)
    if source.path is None:
        return None
    family = recognize_family(source.path, source.family)
    return None if family is None else open_directory(source, source.path, family, getattr(torch, dtype))


def _adopt(source: ModelSource) -> TorchModel | None:
    from .huggingface.modeling import ChatGLMForConditionalGeneration  # imports transformers

    if not isinstance(source.model, ChatGLMForConditionalGeneration):
        return None
    return source.model.as_runtime_model(source.name, source.tokenizer)
