"""Registers our classes with transformers' auto classes, when and only when those are imported.

``import glm_runtime_torch`` must stay light, because looking for plugins imports it; so each
registration waits for the module of transformers that it concerns (PEP 369 style hooks).
"""

from __future__ import annotations

from types import ModuleType

import wrapt


def register_lazily() -> None:
    """Arrange for the registrations; those whose module is imported already happen now."""
    wrapt.register_post_import_hook(_register_config, "transformers.models.auto.configuration_auto")
    wrapt.register_post_import_hook(_register_tokenizer, "transformers.models.auto.tokenization_auto")
    wrapt.register_post_import_hook(_register_model, "transformers.models.auto.modeling_auto")


def _register_config(auto: ModuleType) -> None:
    from .configuration import ChatGLMConfig

    auto.AutoConfig.register("chatglm", ChatGLMConfig, exist_ok=True)


def _register_tokenizer(auto: ModuleType) -> None:
    from .configuration import ChatGLMConfig
    from .tokenization import ChatGLMTokenizer

    auto.AutoTokenizer.register(ChatGLMConfig, slow_tokenizer_class=ChatGLMTokenizer, exist_ok=True)


def _register_model(auto: ModuleType) -> None:
    from .configuration import ChatGLMConfig
    from .modeling import ChatGLMForConditionalGeneration

    for auto_class in (auto.AutoModel, auto.AutoModelForCausalLM, auto.AutoModelForSeq2SeqLM):
        auto_class.register(ChatGLMConfig, ChatGLMForConditionalGeneration, exist_ok=True)
