"""Is the GPU right, how fast, how near its memory's limit, and how much memory does ChatGLM-6B take?

    python benchmarks/gpu.py [--device cuda:0] [--report FILE.md]     # about ten minutes on one large GPU
    python benchmarks/gpu.py --device cpu --tiny --kernels torch      # the same steps on a small model

One call does all of it:

- parity: every golden case of ChatGLM-6B (v1) on the device: logits in float32 and float16, greedy tokens
  through the engine, stored int8 and int4 against their dequantised weights;
- memory bandwidth, by copying a large buffer;
- ChatGLM-6B's size in float16, int8 and int4 with random weights that are made on the device: prefill
  tokens/s at 128, 512 and 2,000 tokens, decode tokens/s of 1, 8 and 32 requests, the peak of memory at
  2,048 tokens, and the share of the bandwidth that decoding at batch 1 uses.

Without such a device it says so in one sentence and exits with 2. The last line is JSON.
"""

from __future__ import annotations

import argparse
import dataclasses
import gc
import importlib.metadata
import json
import logging
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from glm_jobs.bench import Plan, measure
from glm_runtime_torch.architectures.chatglm import ChatGLMConfig
from glm_runtime_torch.families.registry import CHATGLM
from glm_runtime_torch.model.torch_model import TorchModel
from glm_runtime_torch.network.empty_weights import build_without_weights
from glm_runtime_torch.quantization import QuantizedEmbedding, QuantizedLinear, expect_stored_form
from gpu_parity import check_parity
from reporting import describe_machine, format_machine, format_table, write_report
from torch import Tensor, nn

import glm_core
from glm_core import ChatModel, ChatRequest, DeviceError, GlmError, Message, Sampling
from glm_core.pairing import check_wishes
from glm_core.plugins import get_default_host
from glm_core.records import DeviceInfo, Placement
from glm_core.survey import take_survey

FORMS = ("float16", "int8", "int4")
WEIGHT_DEVIATION = 0.02
PREFILLS, BATCHES = (128, 512, 2000), (1, 8, 32)
LONG_CONTEXT, SHORT_CONTEXT = 2048, 256
NEW_TOKENS = 64


def main() -> int:
    """Check, measure and report; 2 without the device, 1 if a golden case is missed."""
    options = _parse_options()
    host = get_default_host()
    try:
        (route, *_) = check_wishes(take_survey(host), "auto", options.device)
        backend, device = route.placer.plugin, route.devices[0]
    except DeviceError as error:
        print(f"benchmarks/gpu.py: {error}", file=sys.stderr)
        return 2
    logging.basicConfig(format="  %(message)s", level=logging.WARNING)
    logging.getLogger("glm").setLevel(logging.INFO if not options.tiny else logging.WARNING)
    bench = Bench(backend, device, tiny=options.tiny, kernels=options.kernels)
    started = time.perf_counter()
    result: dict[str, Any] = {
        "machine": describe_machine(),
        "device": dataclasses.asdict(device),
        "triton": _find_version("triton"),
        "kernels": options.kernels,
        "tiny": options.tiny,
        "bandwidth": host.call(backend, "measure_bandwidth", device=device.name),
        "parity": check_parity(
            lambda model, slots: bench.place(model, slots=slots), torch.device(device.name)
        ),
        "speed": [bench.measure_form(form) for form in options.forms.split(",")],
    }
    result["seconds"] = round(time.perf_counter() - started, 1)
    for row in result["speed"]:
        _add_shares(row, result["bandwidth"])
    write_report(options.report, _report(result), result)
    return 0 if all(check["within"] for check in result["parity"]) else 1


class Bench:
    """One device, through the hooks of its backend.

    Args:
        backend: name of the plugin.
        device: as it describes it.
        tiny: measure a model of a few million parameters and short prompts.
        kernels: of the backend.
    """

    def __init__(self, backend: str, device: DeviceInfo, *, tiny: bool, kernels: str = "auto") -> None:
        self._backend, self._device, self._tiny, self._kernels = backend, device, tiny, kernels
        self._torch_device = torch.device(device.name)
        self._host = get_default_host()

    def place(self, model: TorchModel, **placement: Any) -> TorchModel:
        """Put a model on the device with the backend and return it."""
        placed = self._host.call(
            self._backend,
            "place",
            model=model,
            placement=Placement((self._device.name,), kernels=self._kernels, **placement),
        )
        assert isinstance(placed, TorchModel)
        return placed

    def measure_form(self, form: str) -> dict[str, Any]:
        """Measure speed and memory of one way of storing the weights."""
        print(f"measuring {form}", file=sys.stderr, flush=True)
        prefills = (16, 32, 64) if self._tiny else PREFILLS
        batches = (1, 2, 4) if self._tiny else BATCHES
        tokens = 8 if self._tiny else NEW_TOKENS
        row: dict[str, Any] = {"form": form, "prefill": {}, "decode": {}}
        self._reset()
        model = self._make_sized_model(form, slots=1, context=LONG_CONTEXT)
        row["weight_bytes"] = model.info.weight_bytes
        for cell in measure(self._make_chat(model), Plan(prefills, tokens // 2, (1,), 3)):
            assert cell.prefill is not None
            row["prefill"][cell.wanted_tokens] = cell.prefill.median
        row["peak_bytes"] = self._measure_peak(lambda: self._fill(model))
        model.close()
        self._reset()
        fitting = self._find_fitting_batches(form, batches)
        if fitting:
            model = self._make_sized_model(form, slots=max(fitting), context=SHORT_CONTEXT)
            for cell in measure(self._make_chat(model), Plan((prefills[0],), tokens, fitting, 3)):
                assert cell.decode is not None
                row["decode"][cell.batch] = cell.decode.median
            model.close()
            self._reset()
        return row

    def _find_fitting_batches(self, form: str, batches: Sequence[int]) -> tuple[int, ...]:
        """Return the batches that fit the device, each with all its slots."""
        fitting = []
        for batch in batches:
            try:
                self._make_sized_model(form, slots=batch, context=SHORT_CONTEXT).close()
            except GlmError as error:
                print(f"  batch {batch} is left out: {error}", file=sys.stderr)
                break
            finally:
                self._reset()
            fitting.append(batch)
        return tuple(fitting)

    def _make_sized_model(self, form: str, *, slots: int, context: int) -> TorchModel:
        model = make_random_model(form, tiny=self._tiny)
        context = context if not self._tiny else min(context, 256)
        return self.place(model, slots=slots, context_length=context)

    def _make_chat(self, model: TorchModel) -> ChatModel:
        return ChatModel(self._host, "runtime_torch", model)

    def _fill(self, model: TorchModel) -> None:
        """Answer until every position of the context is used."""
        length = model.info.context_length
        prompt = tuple(model.tokenizer.encode_chat([Message("user", "the " * (length * 3 // 4))]))
        request = ChatRequest(
            prompt=prompt, sampling=Sampling(max_length=length, do_sample=False, ignore_eos=True)
        )
        *_, last = model.stream(request)
        assert last.usage is not None
        assert last.usage.prompt_tokens + last.usage.completion_tokens == length

    def _measure_peak(self, work: Any) -> int:
        """Return the most bytes that the device's allocator held since the last reset; 0 = not counted."""
        work()
        return torch.cuda.max_memory_reserved(self._torch_device) if self._torch_device.type == "cuda" else 0

    def _reset(self) -> None:
        gc.collect()
        if self._torch_device.type == "cuda":
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats(self._torch_device)


class RandomWeights:
    """Stands in for a checkpoint: every tensor is made when it is read, on the device where it will stay."""

    def __init__(self, network: nn.Module) -> None:
        self._shapes = {name: (value.shape, value.dtype) for name, value in network.named_parameters()}

    def read(self, name: str, *, dtype: torch.dtype, device: torch.device) -> Tensor:
        """Make a tensor whose values have a usual size."""
        shape, stored = self._shapes[name]
        if not stored.is_floating_point:
            return torch.randint(-127, 128, shape, dtype=torch.int8, device=device)
        if name.endswith("weight_scale"):
            return torch.full(shape, WEIGHT_DEVIATION / 73, dtype=dtype, device=device)
        if name.endswith("layernorm.weight"):
            return torch.ones(shape, dtype=dtype, device=device)
        return torch.empty(shape, dtype=dtype, device=device).normal_(std=WEIGHT_DEVIATION)


def make_random_model(form: str, *, tiny: bool) -> TorchModel:
    """Return ChatGLM-6B, or a tiny one, its weights made as they are read; the vocabulary is the demo's."""
    demo = glm_core.resolve_model("demo")
    config = json.loads((demo / "config.json").read_text("utf-8"))
    raw: dict[str, Any] = {**config, "pre_seq_len": None}
    if not tiny:
        full = ChatGLMConfig()
        raw |= {"num_layers": full.num_layers, "hidden_size": full.hidden_size, "vocab_size": full.vocab_size}
        raw |= {"inner_hidden_size": full.inner_hidden_size, "num_attention_heads": full.num_heads}
    shape = CHATGLM.read_config(raw)
    with build_without_weights():
        built = CHATGLM.build(shape)
        if form != "float16":
            expect_stored_form(built, {"quantization_bit": int(form.removeprefix("int"))})
            _store_table(built)
    weights: Any = RandomWeights(built)
    tokenizer = CHATGLM.read_tokenizer(demo)
    return TorchModel(form, CHATGLM, shape, built, tokenizer, torch.float16, checkpoint=weights)


def _store_table(built: Any) -> None:
    """Put the table in int8, as ``--quantize`` does."""
    old = built.transformer.word_embeddings
    table = QuantizedEmbedding(old.num_embeddings, old.embedding_dim, 8)
    head = QuantizedLinear(old.embedding_dim, old.num_embeddings, 8, bias=False)
    head.weight, head.weight_scale = table.weight, table.weight_scale
    built.transformer.word_embeddings, built.lm_head = table, head


def _add_shares(row: dict[str, Any], bandwidth: float | None) -> None:
    """Add the share of the memory's bandwidth that reading the weights takes at batch 1."""
    alone = row["decode"].get(1)
    row["bandwidth_share"] = alone * row["weight_bytes"] / bandwidth if alone and bandwidth else None


def _report(result: dict[str, Any]) -> str:
    device, rate = result["device"], result["bandwidth"]
    parity = format_table(
        ("parity with the golden cases of ChatGLM-6B", "worst", "bound", ""),
        [
            (
                check["what"],
                f"{check['worst']:.2g}",
                f"{check['bound']:.2g}",
                "ok" if check["within"] else "MISSED",
            )
            for check in result["parity"]
        ],
    )
    lengths = list(result["speed"][0]["prefill"])
    batches = sorted({batch for row in result["speed"] for batch in row["decode"]})
    headings = (
        "weights",
        "GB",
        *(f"prefill {length:,}" for length in lengths),
        *(f"decode x{batch}" for batch in batches),
        "share of bandwidth at x1",
        "peak GB",
    )
    speed = format_table(
        headings,
        [
            (
                row["form"],
                f"{row['weight_bytes'] / 1e9:.2f}",
                *(f"{row['prefill'][length]:,.0f}" for length in lengths),
                *(f"{row['decode'][batch]:,.0f}" if batch in row["decode"] else "-" for batch in batches),
                "-" if row["bandwidth_share"] is None else f"{row['bandwidth_share']:.0%}",
                f"{row['peak_bytes'] / 1e9:.2f}" if row["peak_bytes"] else "-",
            )
            for row in result["speed"]
        ],
    )
    size = "a tiny model" if result["tiny"] else "ChatGLM-6B's size"
    return "\n\n".join(
        (
            f"# {device['label']}, {device['memory_bytes'] / 1e9:.0f} GB: parity, speed and memory",
            f"{format_machine(result['machine'])} triton {result['triton']}. "
            f"{result['seconds']:.0f} seconds.",
            parity,
            f"{size.capitalize()} with random weights, tokens a second; memory copies at "
            + (f"{rate / 1e9:,.0f} GB/s." if rate else "an unknown rate.")
            + " Peak memory is what PyTorch's allocator held at most for one conversation of 2,048 tokens.",
            speed,
        )
    )


def _find_version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def _parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--device", default="cuda")
    parser.add_argument(
        "--tiny", action="store_true", help="a small model and short prompts, to try the script"
    )
    parser.add_argument("--kernels", default="auto", help="of the backend")
    parser.add_argument("--forms", default=",".join(FORMS), help="of the weights")
    parser.add_argument("--report", type=Path, help="also write the report here and its JSON beside it")
    return parser.parse_args()


if __name__ == "__main__":
    raise SystemExit(main())
