"""bfloat16 in Triton's interpreter, which keeps its bits in integers and multiplies these.

Products and conversions get the numbers that the bits mean, rounded to nearest even as GPUs round them.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import triton.language as tl
from triton.runtime import interpreter


def install() -> None:
    """Mend the interpreter of this process; a second call changes nothing."""
    if getattr(interpreter, "_bfloat16_is_mended", False):
        return
    convert, dot = interpreter._convert_float, interpreter.InterpreterBuilder.create_dot

    def converted(numbers: Any, source: Any, target: Any, rounding: Any) -> Any:
        if (source, target) == (tl.float32, tl.bfloat16):
            values = torch.from_numpy(np.array(numbers, dtype=np.float32))
            return values.bfloat16().view(torch.int16).numpy().view(np.uint16)
        if (source, target) == (tl.bfloat16, tl.float32):
            return _wide(numbers).view(np.uint32)
        return convert(numbers, source, target, rounding)

    def product(self: Any, a: Any, b: Any, d: Any, *options: Any) -> Any:
        a, b = (
            interpreter.TensorHandle(_wide(side.data), tl.float32) if side.dtype == tl.bfloat16 else side
            for side in (a, b)
        )
        return dot(self, a, b, d, *options)

    interpreter._convert_float = converted
    interpreter.InterpreterBuilder.create_dot = product
    interpreter._bfloat16_is_mended = True


def _wide(bits: Any) -> Any:
    return (np.asarray(bits).view(np.uint16).astype(np.uint32) << 16).view(np.float32)
