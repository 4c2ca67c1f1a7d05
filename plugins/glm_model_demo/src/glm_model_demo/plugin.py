"""The hook that names the demo model."""

from __future__ import annotations

from pathlib import Path

from glm_core import hookimpl
from glm_core.records import ModelCard

GLM_API_VERSION = 2


@hookimpl
def describe_models() -> tuple[ModelCard, ...]:
    """Return the one model that this package ships."""
    return (
        ModelCard(
            "demo",
            "small bundled model that talks about glm in Chinese and English; a demo, not ChatGLM-6B",
            path=Path(__file__).parent / "model",
            license="Apache-2.0",
        ),
    )
