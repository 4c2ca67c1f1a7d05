"""A trial of the Triton kernels on a device, before a model relies on them.

Triton compiles when a kernel is first called, with the system's C compiler for a part of it. What may fail
then is better found here, where other kernels can still be taken.
"""

from __future__ import annotations

from functools import cache

import torch
from glm_runtime_torch.backends import TorchDecodeAttention, dequantize_rows, quantize_rows
from torch import Tensor

ROUNDING = 5e-3  # of float16 sums; a wrong kernel is off by more than all of it


@cache
def trial(device: torch.device) -> str:
    """Return why the kernels cannot be used on a device; empty if they give the right numbers."""
    try:
        wrong = _first_wrong(device)
    except Exception as error:  # compilers and drivers fail in many ways; each means other kernels
        first = next(iter(str(error).splitlines()), "")
        return f"Triton's kernels fail on {device} ({type(error).__name__}: {first})"
    return f"Triton's kernels give wrong numbers on {device} ({wrong})" if wrong else ""


def _first_wrong(device: torch.device) -> str:
    from ._layers import DECODE_ROWS, TritonLayers, TritonLinear
    from ._triton_decode import TritonDecodeAttention

    generator = torch.Generator().manual_seed(1)
    weight = torch.randn(160, 256, generator=generator).to(device)
    inputs = torch.randn(DECODE_ROWS + 1, 256, generator=generator).half().to(device)
    for bits, group_size in ((4, 0), (4, 64), (8, 0)):
        stored, scale = quantize_rows(weight, bits, group_size)
        layer = TritonLayers(torch.float16).linear(stored, scale, None, bits, group_size)
        wanted = inputs.float() @ dequantize_rows(stored, scale, bits, torch.float32, group_size).T
        for rows in (1, len(inputs)):
            if _error(layer(inputs[:rows]), wanted[:rows]) > ROUNDING:
                return f"int{bits} product of {rows} rows"
    plain = TritonLinear.from_dense(weight.half(), None)
    if _error(plain(inputs[:1]), inputs[:1].float() @ weight.half().float().T) > ROUNDING:
        return "float16 product"
    q = torch.randn(2, 2, 1, 64, generator=generator).half().to(device)
    angle = torch.rand(2, 1, 1, 1, 64, generator=generator).half().to(device)
    keys, values = (torch.randn(3, 2, 48, 64, generator=generator).half().to(device) for _ in range(2))
    found = TritonDecodeAttention().decode(
        q, q, q, angle, angle, keys.clone(), values.clone(), [2, 0], [40, 1]
    )
    wide, turn = q.float(), angle.float()
    wanted = TorchDecodeAttention().decode(
        wide, wide, wide, turn, turn, keys.float(), values.float(), [2, 0], [40, 1]
    )
    return "attention" if _error(found, wanted) > ROUNDING else ""


def _error(found: Tensor, wanted: Tensor) -> float:
    error = float((found.float() - wanted).norm() / wanted.norm())
    return error if error == error else float("inf")
