"""Triton's kernels on the CPU, through Triton's interpreter."""

from __future__ import annotations

import importlib.util
import os

# Read when a kernel is defined, so before any module with kernels is imported.
os.environ["TRITON_INTERPRET"] = "1"

if importlib.util.find_spec("triton") is not None:
    import interpreted_bfloat16

    interpreted_bfloat16.install()
