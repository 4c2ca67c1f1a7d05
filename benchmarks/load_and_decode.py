"""How long do loading, the first token and decoding take, and what share of a step is matrix products?

    python benchmarks/load_and_decode.py [--layers 8] [--hidden 2048] [--dtype bfloat16] [--prompt 128]

Makes a random ChatGLM-6B (v1) checkpoint, loads it as ``glm --device cpu`` does, and decodes at batch 1
through the engine. Beside it the same matrix products alone, in the same order and threads: a decode
step cannot be faster than they are. Warm-up is left out; medians are reported; the last line is JSON.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from glm_backend_cpu._placement import place_on_cpu
from glm_runtime_torch.backends import find_places
from glm_runtime_torch.loading import open_source
from glm_runtime_torch.model.torch_model import TorchModel
from random_checkpoint import write_checkpoint

from glm_core import ChatRequest, Message, Sampling
from glm_core.records import ModelSource, Placement


def main() -> None:
    """Measure and report."""
    options = _parse_options()
    with tempfile.TemporaryDirectory() as folder:
        directory = write_checkpoint(Path(folder), num_layers=options.layers, hidden_size=options.hidden)
        started = time.perf_counter()
        model = open_source(ModelSource("random", directory), options.dtype)
        assert isinstance(model, TorchModel)
        opened = time.perf_counter()
        # Before backends put layers of their own in: what is a linear layer now has the same name then.
        shapes = {place.name: place.module.in_features for place in find_places(model.network, is_linear)}
        place_on_cpu(model, Placement(("cpu",)))
        loaded = time.perf_counter()
    prompt = "你" * options.prompt
    _decode(model, prompt, 8)  # warm-up: first use of every kernel
    runs = [_decode(model, prompt, options.tokens) for _ in range(options.runs)]
    products = _measure_matrix_products(model, shapes)
    result = {
        "parameters": model.info.num_parameters,
        "dtype": options.dtype,
        "threads": torch.get_num_threads(),
        "weight_gb": round(model.count_weight_bytes() / 1e9, 3),
        "open_seconds": round(opened - started, 3),
        "place_seconds": round(loaded - opened, 3),
        "prompt_tokens": runs[0]["prompt_tokens"],
        "time_to_first_token_seconds": round(statistics.median(run["first"] for run in runs), 4),
        "decode_ms_per_token": round(statistics.median(run["step"] for run in runs) * 1e3, 3),
        "matrix_products_ms": round(products * 1e3, 3),
    }
    result["decode_tokens_per_second"] = round(1e3 / result["decode_ms_per_token"], 2)
    result["share_of_matrix_products"] = round(
        result["matrix_products_ms"] / result["decode_ms_per_token"], 3
    )
    for name, value in result.items():
        print(f"{name:30} {value}")
    print(json.dumps(result))


def _parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--layers", type=int, default=8)
    parser.add_argument("--hidden", type=int, default=2048)
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--prompt", type=int, default=128, help="tokens of the prompt, about")
    parser.add_argument("--tokens", type=int, default=32, help="tokens to decode")
    parser.add_argument("--runs", type=int, default=5)
    return parser.parse_args()


def _decode(model: TorchModel, prompt: str, tokens: int) -> dict[str, float]:
    request = ChatRequest((Message("user", prompt),), Sampling(do_sample=False, max_new_tokens=tokens))
    *_, last = model.stream(request)
    assert last.usage is not None
    return {
        "prompt_tokens": last.usage.prompt_tokens,
        "first": last.usage.time_to_first_token,
        "step": last.usage.decode_seconds / max(1, last.usage.completion_tokens - 1),
    }


def is_linear(module: torch.nn.Module) -> bool:
    """Return whether a module of the network as it was built multiplies with a matrix."""
    return isinstance(module, torch.nn.Linear)


def _measure_matrix_products(model: TorchModel, shapes: Mapping[str, int], repeats: int = 7) -> float:
    """Return the seconds that the linear layers of one step take alone, median.

    Args:
        model: placed.
        shapes: names of the linear layers and how many inputs each takes.
        repeats: how often all of them are run.
    """
    products = [
        (model.network.get_submodule(name), torch.randn(1, width, dtype=model.dtype))
        for name, width in shapes.items()
    ]
    assert products

    def multiply_all() -> None:
        for layer, x in products:
            layer(x)

    with torch.inference_mode():
        multiply_all()
        return statistics.median(_measure_seconds(multiply_all) for _ in range(repeats))


def _measure_seconds(function: Callable[[], None]) -> float:
    started = time.perf_counter()
    function()
    return time.perf_counter() - started


if __name__ == "__main__":
    main()
