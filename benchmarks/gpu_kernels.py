"""How close do the CUDA backend's kernels come to the GPU's memory bandwidth, and what does torch reach?

    python benchmarks/gpu_kernels.py [--device cuda:0] [--shapes 4096x4096] [--rows 1,8,64,512]

Every linear layer of ChatGLM-6B (inputs x outputs) in every stored form, then decode attention and the
deep-norm LayerNorm, each beside PyTorch's own. Calls are recorded in a CUDA graph, as decode steps are, so
Python costs nothing; layers are cycled through more copies than the cache holds. Times are the best and the
median of the replays. GB/s counts what a call must read, and its share is of a copy on the same GPU. The
last line is JSON.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass

import torch
from glm_backend_cuda._bandwidth import measure
from torch import Tensor, nn
from torch.nn import functional as F

from glm_core import GlmError

SHAPES = ("4096x12288", "4096x4096", "4096x16384", "16384x4096", "4096x130528")
ROWS = (1, 2, 8, 16, 32, 64, 128, 512)
CACHE_BYTES = 256 * 2**20  # copies of a layer are made until they are larger than any GPU's cache
FORMS = {"int4": (4, 0), "int4-g128": (4, 128), "int4-g32": (4, 32), "int8": (8, 0)}
KERNELS = (*FORMS, "plain", "torch plain", "torch int4", "torch int8")
HEADS = {"ChatGLM-6B": (32, 32), "ChatGLM2-6B": (32, 2)}  # query heads, key heads; 128 channels each
WORK = Callable[[], object]


@dataclass(frozen=True)
class Result:
    """One measurement; ``bandwidth_share`` is of a copy on the same GPU."""

    kernel: str
    shape: str
    rows: int
    best_us: float
    median_us: float
    gigabytes_per_second: float
    bandwidth_share: float
    tera_operations_per_second: float


class Meter:
    """Times recorded calls on one GPU.

    Args:
        device: the GPU.
        repeats: replays of each recording.
    """

    def __init__(self, device: torch.device, repeats: int) -> None:
        self.device, self.repeats = device, repeats
        self.copy_bandwidth = measure(str(device))

    def measure_times(self, calls: list[WORK]) -> list[float]:
        """Measure seconds of one call, the mean over all of them, for each replay."""
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):  # compiles, and lets libraries allocate what they keep
            for call in calls[:2]:
                call()
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            for call in calls:
                call()
        graph.replay()
        found = []
        for _ in range(self.repeats):
            start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            start.record()
            graph.replay()
            end.record()
            end.synchronize()
            found.append(start.elapsed_time(end) / 1e3 / len(calls))
        return found

    def measure(
        self, name: str, shape: str, rows: int, calls: list[WORK], size: int, operations: int
    ) -> Result:
        """Measure calls that each read ``size`` bytes and compute ``operations``."""
        times = self.measure_times(calls)
        best = min(times)
        return Result(
            name,
            shape,
            rows,
            round(best * 1e6, 2),
            round(statistics.median(times) * 1e6, 2),
            round(size / best / 1e9, 1),
            round(size / best / self.copy_bandwidth, 3),
            round(operations / best / 1e12, 2),
        )


@torch.inference_mode()
def main() -> None:
    """Measure and print."""
    options = _parse_options()
    if not torch.cuda.is_available():
        raise SystemExit(
            "this benchmark needs an NVIDIA GPU and a PyTorch with CUDA; here PyTorch sees no GPU."
        )
    device = torch.device(options.device)
    torch.cuda.set_device(device)
    try:
        meter = Meter(device, options.repeats)
    except GlmError as error:
        raise SystemExit(str(error)) from error
    print(f"{torch.cuda.get_device_name(device)}, copy {meter.copy_bandwidth / 1e9:.0f} GB/s")
    results: list[Result] = []
    for found in _measure_everything(meter, options):
        results.append(found)
        print(_format_line(found), flush=True)
    facts = {
        "device": torch.cuda.get_device_name(device),
        "capability": list(torch.cuda.get_device_capability(device)),
        "torch": torch.__version__,
        "copy_bandwidth": meter.copy_bandwidth,
    }
    print(json.dumps(facts | {"results": [asdict(found) for found in results]}))


def _measure_everything(meter: Meter, options: argparse.Namespace) -> Iterator[Result]:
    dtype = torch.bfloat16 if options.dtype == "bfloat16" else torch.float16
    for shape in options.shapes.split(","):
        inputs, outputs = map(int, shape.split("x"))
        for name in options.kernels.split(","):
            layers, size = _make_layers(name, inputs, outputs, dtype, meter.device)
            for rows in map(int, options.rows.split(",")):
                x = torch.randn(rows, inputs, dtype=dtype, device=meter.device)
                calls = [_bind_call(layer, x) for layer in layers]
                yield meter.measure(name, shape, rows, calls, size, 2 * rows * inputs * outputs)
            del layers
    for family, (heads, key_heads) in HEADS.items():
        for rows, length in ((1, 256), (1, 2048), (8, 512), (32, 512)):
            yield from _measure_attention(meter, family, heads, key_heads, rows, length, dtype)
    yield from _measure_norms(meter, dtype)


def _make_layers(
    name: str, inputs: int, outputs: int, dtype: torch.dtype, device: torch.device
) -> tuple[list[nn.Module], int]:
    """Make enough copies of one layer to leave the cache; return them and the bytes that one reads."""
    first = _make_layer(name, inputs, outputs, dtype, device)
    tensors = (first.weight, getattr(first, "weight_scale", None))
    size = sum(tensor.nbytes for tensor in tensors if isinstance(tensor, Tensor))
    copies = max(1, -(-CACHE_BYTES // size))
    return [first, *(_make_layer(name, inputs, outputs, dtype, device) for _ in range(copies - 1))], size


def _make_layer(name: str, inputs: int, outputs: int, dtype: torch.dtype, device: torch.device) -> nn.Module:
    from glm_backend_cuda._layers import TritonLayers, TritonLinear
    from glm_backend_cuda._torch_layers import TorchLayers, find_products

    bias = torch.zeros(outputs, dtype=dtype, device=device)
    if name.endswith("plain"):
        weight = torch.randn(outputs, inputs, dtype=dtype, device=device)
        if name == "plain":
            return TritonLinear.from_dense(weight, bias)
        linear = nn.Linear(inputs, outputs, device="meta").requires_grad_(False)
        linear.weight, linear.bias = nn.Parameter(weight, False), nn.Parameter(bias, False)
        return linear
    bits, group = FORMS[name.removeprefix("torch ")]
    stored = torch.randint(-128, 128, (outputs, inputs * bits // 8), dtype=torch.int8, device=device)
    scale = torch.rand((outputs, inputs // group) if group else (outputs,), device=device).half() / 1000
    if name.startswith("torch "):
        return TorchLayers(dtype, find_products([device], dtype)).make_linear(
            stored, scale, bias, bits, group
        )
    return TritonLayers(dtype).make_linear(stored, scale, bias, bits, group)


def _measure_attention(
    meter: Meter, family: str, heads: int, key_heads: int, rows: int, length: int, dtype: torch.dtype
) -> Iterator[Result]:
    from glm_backend_cuda._triton_decode import TritonDecodeAttention

    def make_random(*sizes: int) -> Tensor:
        return torch.randn(sizes, dtype=dtype, device=meter.device)

    size = 2 * rows * key_heads * length * 128 * dtype.itemsize
    copies = max(1, -(-CACHE_BYTES // size))
    q, k, v = (
        make_random(rows, heads, 1, 128),
        make_random(rows, key_heads, 1, 128),
        make_random(rows, key_heads, 1, 128),
    )
    angle = make_random(rows, 1, 1, 2, 64)
    caches = [
        (make_random(rows, key_heads, length, 128), make_random(rows, key_heads, length, 128))
        for _ in range(copies)
    ]
    slots = torch.arange(rows, device=meter.device)
    lengths = torch.full_like(slots, length)
    attention = TritonDecodeAttention()
    operations = 4 * rows * heads * length * 128
    shape = f"{family} {length}"

    def call_ours(keys: Tensor, values: Tensor) -> WORK:
        return lambda: attention.decode(q, k, v, angle, angle, keys, values, slots, lengths)

    def call_torch(keys: Tensor, values: Tensor) -> WORK:
        return lambda: F.scaled_dot_product_attention(q, keys, values, enable_gqa=heads != key_heads)

    for name, make in (("attention", call_ours), ("torch attention, nothing rotated or stored", call_torch)):
        calls = [make(keys, values) for keys, values in caches]
        yield meter.measure(name, shape, rows, calls, size, operations)


def _measure_norms(meter: Meter, dtype: torch.dtype) -> Iterator[Result]:
    from glm_backend_cuda._norm import TritonLayerNorm

    plain = nn.LayerNorm(4096, device=meter.device, dtype=dtype).requires_grad_(False)
    ours = TritonLayerNorm(plain)
    for rows in (1, 32):
        x, residual = (torch.randn(rows, 4096, dtype=dtype, device=meter.device) for _ in range(2))
        for name, call in (
            ("norm of a sum", lambda x=x, r=residual: ours.forward_sum(x, r, 7.5)),
            ("torch norm of a sum", lambda x=x, r=residual: plain(r.add(x, alpha=7.5))),
        ):
            yield meter.measure(name, "4096", rows, [call] * 100, 3 * x.nbytes, 8 * x.numel())


def _bind_call(layer: nn.Module, x: Tensor) -> WORK:
    return lambda: layer(x)


def _format_line(found: Result) -> str:
    return (
        f"{found.shape:<17} {found.kernel:<42} M={found.rows:<4} {found.best_us:9.1f} us "
        f"(median {found.median_us:9.1f}) {found.gigabytes_per_second:7.0f} GB/s "
        f"{found.bandwidth_share:6.1%} {found.tera_operations_per_second:7.1f} TOP/s"
    )


def _parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", default="cuda:0")
    parser.add_argument("--dtype", choices=("float16", "bfloat16"), default="float16")
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--rows", default=",".join(map(str, ROWS)), help="comma-separated")
    parser.add_argument("--shapes", default=",".join(SHAPES), help="inputs x outputs, comma-separated")
    parser.add_argument("--kernels", default=",".join(KERNELS), help="comma-separated names")
    return parser.parse_args()


if __name__ == "__main__":
    main()
