"""Compile the CUDA backend's Triton kernels for some architectures, without a GPU; the last line is JSON.

python compile_kernels.py 80 90
"""

from __future__ import annotations

import json
import sys
from typing import Any

from glm_backend_cuda import _layers, _triton_attention, _triton_linear, _triton_norm
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource, compile as compile_kernel

INSTRUCTIONS = ("mma.sync", "wgmma", "cp.async", "tcgen05.mma")
POINTERS = {
    "linear": {"x": "fp16", "scale": "fp32", "bias": "fp16", "y": "fp16"},
    "attention": dict.fromkeys(("q", "k", "v", "cos", "sin", "keys", "values"), "fp16")
    | {"slots": "i64", "lengths": "i64", "maxima": "fp32", "sums": "fp32", "contexts": "fp32"},
}


def made(
    kernel: Any, capability: int, pointers: dict[str, str], constants: dict[str, Any], **options: int
) -> Any:
    """What the compiler makes of a kernel whose other arguments are int32, or float32 by their names."""
    signature, attributes = {}, {}
    for index, name in enumerate(kernel.arg_names):
        if name in constants:
            signature[name] = "constexpr"
        elif name in pointers:
            signature[name] = f"*{pointers[name]}"
        else:
            signature[name] = "fp32" if name in ("score_scale", "alpha", "eps") else "i32"
        if name in pointers or (signature[name] == "i32" and name not in ("num_rows", "count", "num_chunks")):
            attributes[(index,)] = [["tt.divisibility", 16]]
    source = ASTSource(kernel, signature, constexprs=constants, attrs=attributes)
    found = compile_kernel(source, target=GPUTarget("cuda", capability, 32), options=options)
    return {
        "shared": found.metadata.shared,
        "instructions": [name for name in INSTRUCTIONS if name in found.asm["ptx"]],
    }


def compile_linear(
    capability: int,
    bits: int,
    group: int,
    tiling: _layers.Tiling,
    *,
    even: bool = True,
    partial: bool = False,
) -> Any:
    """`multiply_kernel` with a bias and a GELU, or of one split."""
    pointers = POINTERS["linear"] | {"weight": {4: "i16", 8: "i8", 16: "fp16"}[bits]}
    pointers |= {"y": "fp32"} if partial else {}
    constants = {"BITS": bits, "GROUP": group, "BLOCK_M": tiling.rows, "BLOCK_N": tiling.outputs}
    constants |= {"EVEN": even, "PARTIAL": partial, "HAS_BIAS": True, "GELU": True}
    options = {"num_warps": tiling.warps, "num_stages": tiling.stages}
    return made(_triton_linear.multiply_kernel, capability, pointers, constants, **options)


def attention(capability: int, heads: int, positions: int) -> Any:
    """`chunk_kernel` of ChatGLM-6B's or ChatGLM2's heads."""
    constants = {"HEADS": heads, "QUERIES": heads, "H": 128, "BLOCK_H": 128, "ROTATED": 64}
    constants |= {"CHUNK": 256 if heads == 1 else 64, "BLOCK_S": positions}
    return made(_triton_attention.chunk_kernel, capability, POINTERS["attention"], constants, num_warps=4)


def small(capability: int) -> dict[str, Any]:
    """The kernels around the large ones."""
    halves = dict.fromkeys(("x", "residual", "weight", "bias", "y"), "fp16")
    parts = {"parts": "fp32", "bias": "fp16", "y": "fp16"}
    chunks = {"maxima": "fp32", "sums": "fp32", "contexts": "fp32", "lengths": "i64", "out": "fp16"}
    rows = {"ids": "i64", "weight": "i16", "scale": "fp16", "y": "fp16"}
    heads = {"H": 128, "BLOCK_H": 128, "CHUNK": 256}
    norm, sums = {"D": 4096, "BLOCK": 4096, "SUM": True}, {"SPLITS": 4, "BLOCK": 1024}
    ends = {"HAS_BIAS": True, "GELU": True}
    return {
        "norm": made(_triton_norm.normalize_kernel, capability, halves, norm, num_warps=8),
        "sum": made(_triton_linear.sum_kernel, capability, parts, sums | ends),
        "join": made(_triton_attention.join_kernel, capability, chunks, heads),
        "int4 rows": made(_triton_linear.look_up_kernel, capability, rows, {"BITS": 4, "GROUP": 32}),
        "int8 rows": made(
            _triton_linear.look_up_kernel, capability, rows | {"weight": "i8"}, {"BITS": 8, "GROUP": 0}
        ),
    }


def main() -> None:
    """Compile for the architectures named."""
    found: dict[str, Any] = {}
    for capability in map(int, sys.argv[1:]):
        cores = capability >= 80
        decode = _layers.DECODE if cores else _layers.DECODE_PLAIN
        made_here = {
            "int4 decode": compile_linear(capability, 4, 0, decode),
            "int4-g32 decode": compile_linear(capability, 4, 32, _layers.DECODE_MANY if cores else decode),
            "int8 decode": compile_linear(capability, 8, 0, decode),
            "attention": attention(capability, 1, 32),
            "grouped attention": attention(capability, 16, 32 if cores else 16),
            "plain decode, split and uneven": compile_linear(
                capability, 16, 0, decode, even=False, partial=True
            ),
            **small(capability),
        }
        if cores:
            made_here["int4 prefill"] = compile_linear(capability, 4, 0, _layers.PREFILL)
            made_here["int8 prefill"] = compile_linear(capability, 8, 0, _layers.PREFILL_INT8)
        found |= {f"{name}@{capability}": result for name, result in made_here.items()}
    print(json.dumps(found))


if __name__ == "__main__":
    main()
