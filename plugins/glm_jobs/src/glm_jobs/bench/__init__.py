"""Measuring a loaded model: prefill and decoding apart, one request and several at a time.

- `streams`: runs several requests at once and notes when each token came.
- `rates`: from these times to tokens a second.
- `prompts`: questions of a wanted number of tokens.
- `memory`: what this process takes.
- `benchmark`: what ``glm bench`` measures, in which order.

Everything goes through `glm_core.ChatModel`, so it measures any runtime on any device, with all
that stands between the engine and its caller.
"""

from __future__ import annotations

from .benchmark import Cell, Plan, measure
from .memory import read_peak_memory
from .rates import Spread

__all__ = ["Cell", "Plan", "Spread", "measure", "read_peak_memory"]
