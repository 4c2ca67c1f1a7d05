"""The CUDA backend of glm: describes NVIDIA GPUs, places and quantises models on them."""

__version__ = "0.1.0"
