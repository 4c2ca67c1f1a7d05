"""GGUF files in llama.cpp, as a runtime of glm with a device of its own."""

__version__ = "0.1.0"
