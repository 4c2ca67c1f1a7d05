"""The MPS backend of glm: describes a Mac's GPU, places and quantises models on it."""

__version__ = "0.1.0"
