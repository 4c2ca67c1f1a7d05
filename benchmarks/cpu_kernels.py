"""How close do the CPU backend's kernels come to this machine's limits, and what do torch's own reach?

    python benchmarks/cpu_kernels.py [--levels avx512bf16,avx2] [--threads 2] [--shapes 4096x4096]

Every linear layer of ChatGLM-6B (inputs x outputs) in the formats and modes of the kernels, for 1, 2, 4,
8, 16 and 128 rows, beside torch's kernels on the same weights; then decode attention and LayerNorm.
Layers are cycled through more copies than the caches hold, as decoding does. Times are the best and the
median of interleaved runs; GB/s counts the packed weights once a call, and its share is of the read
bandwidth measured between the runs. The last line is JSON.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass

import torch
from glm_backend_cpu._attention import NativeDecodeAttention
from glm_backend_cpu._native import Native, load_native
from glm_backend_cpu._norm import NativeLayerNorm
from glm_backend_cpu._packed import PackedMatrix, pack_dense, pack_quantized, reserve
from glm_backend_cpu._torch_layers import TorchKernels
from glm_runtime_torch.backends import QuantizedLinear
from torch import Tensor, nn
from torch.nn import functional as F

SHAPES = ("4096x12288", "4096x4096", "4096x16384", "16384x4096", "4096x130528")
ROWS = (1, 2, 4, 8, 16, 128)
CACHE_BYTES = 96 * 2**20  # copies of a layer are made until they are larger than this
READ_BYTES = 256 * 2**20
# Name: format of the weights, group of their scales, group of quantised activations (0 = exact).
KERNELS: dict[str, tuple[str, int, int]] = {
    "int4 int8-activations/128": ("int4", 0, 128),
    "int4 int8-activations/32": ("int4", 0, 32),
    "int4 exact": ("int4", 0, 0),
    "int4-g128 int8-activations/128": ("int4", 128, 128),
    "int4-g32 int8-activations/32": ("int4", 32, 32),
    "int8 int8-activations/128": ("int8", 0, 128),
    "int8 exact": ("int8", 0, 0),
    "bfloat16": ("bfloat16", 0, 0),
    "float32": ("float32", 0, 0),
}
TORCH = ("torch int4pack", "torch int8pack", "torch bfloat16")
Layer = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Result:
    """One measurement; ``bandwidth_share`` is of the bandwidth measured beside it."""

    kernel: str
    level: str
    shape: str
    rows: int
    best_ms: float
    median_ms: float
    gigabytes_per_second: float
    bandwidth_share: float
    giga_operations_per_second: float


def main() -> None:
    """Measure and print."""
    options = _parse_options()
    found = load_native()
    if found.native is None:
        raise SystemExit(found.message)
    native = found.native
    native.threads = options.threads
    torch.set_num_threads(options.threads)
    meter = Meter(native)
    levels = options.levels.split(",") if options.levels else [native.level]
    print(f"{', '.join(levels)}, {options.threads} threads, read bandwidth {meter.read() / 1e9:.1f} GB/s")
    results: list[Result] = []
    for shape in options.shapes.split(","):
        for result in _measure_linear_layers(meter, levels, shape, options):
            results.append(result)
            print(_format_line(result), flush=True)
    others = _measure_other_kernels(native, options.repeats)
    for name, value in others.items():
        print(f"{name:<48} {value:8.1f} us")
    print(json.dumps({"linear": [asdict(result) for result in results], "microseconds": others}))


class Meter:
    """Reads a large buffer with the library's threads."""

    def __init__(self, native: Native) -> None:
        self.native = native
        self._buffer = reserve(READ_BYTES).fill_(1)

    def read(self, passes: int = 3) -> float:
        """Return bytes a second of the fastest of some passes."""
        return READ_BYTES / min(
            _measure_seconds(lambda: self.native.read(self._buffer.data_ptr(), READ_BYTES))
            for _ in range(passes)
        )


def _measure_linear_layers(
    meter: Meter, levels: list[str], shape: str, options: argparse.Namespace
) -> Iterator[Result]:
    inputs, outputs = map(int, shape.split("x"))
    wanted = [
        name for name in (*KERNELS, *TORCH) if not options.kernels or name in options.kernels.split(",")
    ]
    for name in wanted:
        layers, size = _make_layers(meter.native, name, inputs, outputs)
        for level in levels if name in KERNELS else ["torch"]:
            if name in KERNELS:
                meter.native.level = level
            for rows in ROWS:
                x = torch.randn(rows, inputs).bfloat16()
                repeats = max(3, options.repeats // (1 if rows <= 16 else 4))
                times, bandwidth = _measure_times(meter, layers, x, repeats)
                best = min(times)
                yield Result(
                    name,
                    level,
                    shape,
                    rows,
                    round(best * 1e3, 3),
                    round(statistics.median(times) * 1e3, 3),
                    round(size / best / 1e9, 2),
                    round(size / best / bandwidth, 3),
                    round(2 * rows * inputs * outputs / best / 1e9, 1),
                )


def _measure_times(meter: Meter, layers: list[Layer], x: Tensor, repeats: int) -> tuple[list[float], float]:
    """Measure seconds of each run and the best bandwidth; it is read before each of three batches of runs."""
    layers[0](x)
    times, bandwidth = [], 0.0
    for batch in range(3):
        bandwidth = max(bandwidth, meter.read(2))
        for run in range(-(-repeats // 3)):
            layer = layers[(batch + run) % len(layers)]
            times.append(_measure_seconds(lambda layer=layer: layer(x)))  # type: ignore[misc]
    return times, bandwidth


def _make_layers(native: Native, name: str, inputs: int, outputs: int) -> tuple[list[Layer], int]:
    """Make enough copies of one layer to leave the caches; return them and the bytes of one."""
    first, size = _make_layer(native, name, inputs, outputs)
    copies = max(1, -(-CACHE_BYTES // size))
    return [first, *(_make_layer(native, name, inputs, outputs)[0] for _ in range(copies - 1))], size


def _make_layer(native: Native, name: str, inputs: int, outputs: int) -> tuple[Layer, int]:
    if name in TORCH:
        return _make_torch_layer(name, inputs, outputs)
    form, group, act_group = KERNELS[name]
    if form in ("int4", "int8"):
        bits = int(form[3])
        stored = torch.randint(-128, 128, (outputs, inputs * bits // 8), dtype=torch.int8)
        scale = torch.rand(outputs, inputs // group).half() if group else torch.rand(outputs)
        memory, layout = pack_quantized(native, stored, scale, None, bits, group)
    else:
        dtype = torch.bfloat16 if form == "bfloat16" else torch.float32
        memory, layout = pack_dense(native, torch.zeros(outputs, inputs, dtype=dtype), None)
    matrix = PackedMatrix(native, memory, layout)
    return lambda x: matrix.multiply(x, act_group), layout.total_bytes


def _make_torch_layer(name: str, inputs: int, outputs: int) -> tuple[Layer, int]:
    if name == "torch bfloat16":
        weight = torch.zeros(outputs, inputs, dtype=torch.bfloat16)
        return lambda x: F.linear(x, weight), weight.nbytes
    bits = 4 if "int4" in name else 8
    stored, scale = torch.zeros(outputs, inputs * bits // 8, dtype=torch.int8), torch.ones(outputs)
    reference = QuantizedLinear.from_stored(stored, scale, None, bits)
    layer = TorchKernels(torch.bfloat16).make_quantized_linear(reference)
    assert layer is not None  # the benchmark's sizes suit torch's products
    return layer, stored.nbytes


def _measure_other_kernels(native: Native, repeats: int) -> dict[str, float]:
    """Measure the best microseconds of one call: overhead, norm and attention, ours and torch's."""
    found: dict[str, float] = {}
    small = PackedMatrix(native, *pack_dense(native, torch.zeros(16, 32, dtype=torch.bfloat16), None))
    x = torch.zeros(1, 32).bfloat16()
    found["a product of 16 x 32: overhead of a call"] = _measure_microseconds(
        lambda: small.multiply(x), 50 * repeats
    )
    norm = nn.LayerNorm(4096).bfloat16().requires_grad_(False)
    ours = NativeLayerNorm(native, norm)
    for rows in (1, 8, 128):
        h = torch.randn(rows, 4096).bfloat16()
        found[f"LayerNorm, {rows} rows"] = _measure_microseconds(lambda h=h: ours(h), repeats)  # type: ignore[misc]
        found[f"LayerNorm, {rows} rows, torch"] = _measure_microseconds(lambda h=h: norm(h), repeats)  # type: ignore[misc]
    attention = NativeDecodeAttention(native)
    for rows, length in ((1, 256), (1, 2048), (8, 256)):
        step = _make_attention_step(rows, length)
        found[f"decode attention, {rows} rows of {length}"] = _measure_microseconds(
            lambda step=step: attention.decode(*step),  # type: ignore[misc]
            repeats,
        )
        q, keys, values = step[0], step[5][:, :, :length], step[6][:, :, :length]
        found[f"decode attention, {rows} rows of {length}, torch, no rotation"] = _measure_microseconds(
            lambda q=q, k=keys, v=values: F.scaled_dot_product_attention(q, k, v),  # type: ignore[misc]
            repeats,
        )
    return found


def _make_attention_step(rows: int, length: int) -> tuple[Tensor, ...]:
    q, k, v = torch.randn(rows, 1, 32, 384).bfloat16().transpose(1, 2).chunk(3, dim=-1)
    angle = torch.ones(rows, 1, 1, 2, 64).bfloat16()
    keys, values = (torch.randn(rows, 32, length, 128).bfloat16() for _ in range(2))
    places = [*range(rows)], [length] * rows
    return (q, k, v, angle, angle, keys, values, *places)  # type: ignore[return-value]


def _measure_microseconds(call: Callable[[], object], repeats: int) -> float:
    call()
    return round(min(_measure_seconds(call) for _ in range(repeats)) * 1e6, 1)


def _measure_seconds(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def _format_line(result: Result) -> str:
    return (
        f"{result.shape:<12} {result.kernel:<31} {result.level:<10} M={result.rows:<4} "
        f"{result.best_ms:8.2f} ms (median {result.median_ms:8.2f}) {result.gigabytes_per_second:6.1f} GB/s "
        f"{result.bandwidth_share:5.0%} {result.giga_operations_per_second:7.0f} GOP/s"
    )


def _parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--levels", default="", help="comma-separated; the fastest otherwise")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--shapes", default=",".join(SHAPES), help="inputs x outputs, comma-separated")
    parser.add_argument("--kernels", default="", help="comma-separated names; all otherwise")
    return parser.parse_args()


if __name__ == "__main__":
    main()
