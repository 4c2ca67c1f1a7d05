"""The bundled demo model of glm: a few million parameters, ChatGLM-6B's architecture."""

__version__ = "0.1.0"
