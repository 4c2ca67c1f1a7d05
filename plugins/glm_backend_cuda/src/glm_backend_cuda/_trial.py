"""Trying the Triton kernels on a device before a model relies on them.

Triton compiles a kernel when it is first called, a part of it with the system's C compiler. If that fails in
the middle of an answer it is too late; here other kernels can still be chosen.
"""

from __future__ import annotations

from functools import cache

import torch
from glm_runtime_torch.backends import TorchDecodeAttention, dequantize_rows, quantize_rows
from torch import Tensor

from ._errors import format_first_line

ROUNDING = 5e-3  # float16 rounds by up to 0.05 %; a kernel that reads a wrong element is off by far more


@cache
def try_kernels(device: torch.device) -> str:
    """Return why the kernels cannot be used on a device; empty if they give the right numbers."""
    try:
        wrong = _find_first_wrong(device)
    except Exception as error:  # compilers and drivers fail in many ways; each means other kernels
        return f"Triton's kernels fail on {device} ({format_first_line(error)})"
    return f"Triton's kernels give wrong numbers on {device} ({wrong})" if wrong else ""


def _find_first_wrong(device: torch.device) -> str:
    from ._layers import DECODE_ROWS, TritonLayers, TritonLinear
    from ._triton_decode import TritonDecodeAttention

    generator = torch.Generator().manual_seed(1)
    weight = torch.randn(160, 256, generator=generator).to(device)
    inputs = torch.randn(DECODE_ROWS + 1, 256, generator=generator).half().to(device)
    for bits, group_size in ((4, 0), (4, 64), (8, 0)):
        stored, scale = quantize_rows(weight, bits, group_size)
        layer = TritonLayers(torch.float16).make_linear(stored, scale, None, bits, group_size)
        wanted = inputs.float() @ dequantize_rows(stored, scale, bits, torch.float32, group_size).T
        for rows in (1, len(inputs)):
            if _measure_error(layer(inputs[:rows]), wanted[:rows]) > ROUNDING:
                return f"int{bits} product of {rows} rows"
    plain = TritonLinear.from_dense(weight.half(), None)
    if _measure_error(plain(inputs[:1]), inputs[:1].float() @ weight.half().float().T) > ROUNDING:
        return "float16 product"
    q = torch.randn(2, 2, 1, 64, generator=generator).half().to(device)
    angle = torch.rand(2, 1, 1, 1, 64, generator=generator).half().to(device)
    keys, values = (torch.randn(3, 2, 48, 64, generator=generator).half().to(device) for _ in range(2))
    found = TritonDecodeAttention().decode(
        q, q, q, angle, angle, keys.clone(), values.clone(), [2, 0], [40, 1]
    )
    wide, wide_angle = q.float(), angle.float()
    wanted = TorchDecodeAttention().decode(
        wide, wide, wide, wide_angle, wide_angle, keys.float(), values.float(), [2, 0], [40, 1]
    )
    return "attention" if _measure_error(found, wanted) > ROUNDING else ""


def _measure_error(found: Tensor, wanted: Tensor) -> float:
    error = float((found.float() - wanted).norm() / wanted.norm())
    return error if error == error else float("inf")  # not-a-number compares as no error at all
