"""A model behind any server that speaks OpenAI's API, as a runtime and device of glm."""

__version__ = "0.1.0"
