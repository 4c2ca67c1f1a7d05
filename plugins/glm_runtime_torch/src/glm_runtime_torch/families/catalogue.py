"""The published models that this runtime can run, and where they are."""

from __future__ import annotations

from glm_core.records import ModelCard

V1_LICENSE = "ChatGLM-6B Model License"
V2_LICENSE = "ChatGLM2-6B Model License"
V3_LICENSE = "ChatGLM3-6B Model License"
GLM4_LICENSE = "GLM-4 Model License"


def _make(name: str, summary: str, license_name: str, repository: str, modelscope: str = "") -> ModelCard:
    """Return the card of a model; its publishers renamed their account, so both spellings of an id work."""
    return ModelCard(
        name,
        summary,
        hub_id=f"THUDM/{repository}",
        modelscope_id=f"ZhipuAI/{modelscope}" if modelscope else None,
        aliases=(f"THUDM/{repository}", f"zai-org/{repository}"),
        license=license_name,
    )


CARDS: tuple[ModelCard, ...] = (
    _make(
        "chatglm-6b",
        "ChatGLM-6B v1.1, Chinese and English, 6.2 billion parameters",
        V1_LICENSE,
        "chatglm-6b",
        "ChatGLM-6B",
    ),
    _make("chatglm-6b-int8", "ChatGLM-6B quantised to int8 by its authors", V1_LICENSE, "chatglm-6b-int8"),
    _make("chatglm-6b-int4", "ChatGLM-6B quantised to int4 by its authors", V1_LICENSE, "chatglm-6b-int4"),
    _make("chatglm2-6b", "ChatGLM2-6B, 32,768 tokens", V2_LICENSE, "chatglm2-6b", "chatglm2-6b"),
    _make("chatglm2-6b-int4", "ChatGLM2-6B quantised to int4 by its authors", V2_LICENSE, "chatglm2-6b-int4"),
    _make("chatglm2-6b-32k", "ChatGLM2-6B for long texts", V2_LICENSE, "chatglm2-6b-32k", "chatglm2-6b-32k"),
    _make("chatglm3-6b", "ChatGLM3-6B, calls tools", V3_LICENSE, "chatglm3-6b", "chatglm3-6b"),
    _make("chatglm3-6b-base", "ChatGLM3-6B before chat training", V3_LICENSE, "chatglm3-6b-base"),
    _make("chatglm3-6b-32k", "ChatGLM3-6B for long texts", V3_LICENSE, "chatglm3-6b-32k", "chatglm3-6b-32k"),
    _make("chatglm3-6b-128k", "ChatGLM3-6B for very long texts", V3_LICENSE, "chatglm3-6b-128k"),
    _make("codegeex2-6b", "CodeGeeX2-6B, code, over ChatGLM2-6B", V2_LICENSE, "codegeex2-6b"),
    _make("glm-4-9b-chat", "GLM-4-9B-Chat", GLM4_LICENSE, "glm-4-9b-chat", "glm-4-9b-chat"),
    _make("glm-4-9b-0414", "GLM-4-9B-0414", "MIT", "GLM-4-9B-0414", "GLM-4-9B-0414"),
    _make("glm-z1-9b-0414", "GLM-Z1-9B-0414, thinks before it answers", "MIT", "GLM-Z1-9B-0414"),
    _make("glm-edge-1.5b-chat", "GLM-Edge-1.5B-Chat, small", GLM4_LICENSE, "glm-edge-1.5b-chat"),
    _make("glm-edge-4b-chat", "GLM-Edge-4B-Chat", GLM4_LICENSE, "glm-edge-4b-chat"),
)
