"""Chat over standard input and output, a JSON object a line: a frontend of glm for programs."""

__version__ = "0.1.0"
