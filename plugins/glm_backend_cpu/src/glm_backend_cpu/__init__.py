"""The CPU backend of glm: describes the processor, places and quantises models on it."""

__version__ = "0.1.0"
