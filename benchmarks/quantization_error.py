"""What does each way of storing weights, and of rounding activations, cost in accuracy?

    python benchmarks/quantization_error.py [--layer 1024] [--conversations 300]

First on single layers with made-up weights and inputs: the relative error of the output, for
Gaussian and heavy-tailed weights, ordinary inputs and inputs of which a few channels are 50 times
larger. Then on the bundled demo model, which is small but means something: perplexity of fresh
conversations from the generator that its training text came from, agreement with the float
model's next token, and the 60 prompts of tests/glm_model_demo/answers.jsonl. No timing; the last
line is JSON.

Activations are rounded as kernels do it: symmetric to int8, one scale per 32 or 128 inputs or per token.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import random
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from glm_runtime_torch.loading import open_source
from glm_runtime_torch.model.torch_model import TorchModel
from glm_runtime_torch.network.attention import build_visibility_mask
from glm_runtime_torch.quantization import QuantizedLinear, dequantize_rows, quantize_rows
from glm_runtime_torch.quantization.gptq import InputStatistics, quantize_with_gptq
from torch import Tensor, nn
from torch.nn import functional as F

import glm_core
from glm_core.cli import main as glm
from glm_core.records import ChatRequest, ModelSource, QuantizationScheme, Sampling, build_messages

ROOT = Path(__file__).resolve().parents[1]
sys.path.append(str(ROOT / "plugins" / "glm_model_demo" / "training"))

CPU = torch.device("cpu")
SCHEMES = ("int8", "int4", "int4-g128", "int4-g64", "int4-g32")
OUTLIER_CHANNELS, OUTLIER_FACTOR = 4, 50
CALIBRATION_SEED, TEST_SEED = 101, 202  # training used 0, 1 and 2


def round_inputs(x: Tensor, mode: str) -> Tensor:
    """Round activations ``[..., D]`` in a mode: float, bfloat16, int8 per block or per token."""
    if mode == "float":
        return x
    if mode == "bf16":
        return x.bfloat16().to(x.dtype)
    per_token = mode == "int8/token"
    blocks = x.split(x.shape[-1] if per_token else int(mode.partition("/")[2]), dim=-1)
    return torch.cat([_round_block(block) for block in blocks], dim=-1)


def _round_block(x: Tensor) -> Tensor:
    scale = x.abs().amax(dim=-1, keepdim=True).clamp_min(1e-12) / 127
    return (x / scale).round() * scale


ACTIVATIONS = ("float", "bf16", "int8/32", "int8/128", "int8/token")


# --- single layers ---------------------------------------------------------------------------


def generate_layers(size: int) -> Iterator[tuple[str, Tensor, Tensor, Tensor]]:
    """Name, weight, inputs to calibrate with and inputs to measure with; inputs are correlated."""
    for weights, inputs in itertools.product(("gaussian", "heavy"), ("ordinary", "outliers")):
        torch.manual_seed(0)
        weight = torch.randn(size, size)
        if weights == "heavy":
            weight = torch.distributions.StudentT(4.0).sample((size, size))
        mix = 0.7 * torch.randn(size, size) / size**0.5 + 0.5 * torch.eye(size)
        x = torch.randn(6 * size, size) @ mix
        if inputs == "outliers":
            x[:, torch.randperm(size)[:OUTLIER_CHANNELS]] *= OUTLIER_FACTOR
        yield f"{weights} weights, {inputs} inputs", weight * 0.02, x[: 4 * size], x[4 * size :]


def measure_layers(size: int) -> dict[str, dict[str, dict[str, float]]]:
    """Map layer, then scheme and method, then activations, to the relative error of the output."""
    errors: dict[str, dict[str, dict[str, float]]] = {}
    for layer, weight, calibration, x in generate_layers(size):
        exact = x @ weight.T
        found = {"float": weight}
        for name in SCHEMES:
            scheme = QuantizationScheme.parse(name)
            statistics = InputStatistics(size)
            statistics.add(calibration)
            for method, (stored, scale) in (
                ("rtn", quantize_rows(weight.half(), scheme.bits, scheme.group_size)),
                ("gptq", quantize_with_gptq(weight, statistics, scheme, torch.float16)[:2]),
            ):
                restored = dequantize_rows(stored, scale, scheme.bits, torch.float32, scheme.group_size)
                found[f"{name} {method}"] = restored
        errors[layer] = {
            name: {
                mode: ((round_inputs(x, mode) @ restored.T - exact).norm() / exact.norm()).item()
                for mode in ACTIVATIONS
            }
            for name, restored in found.items()
        }
    return errors


# --- the demo model --------------------------------------------------------------------------


@dataclass(frozen=True)
class Example:
    """A conversation ready for one pass: tokens, where they stand, and which answer tokens to predict."""

    input_ids: Tensor
    position_ids: Tensor
    mask: Tensor
    first: int


def draw_conversations(count: int, seed: int) -> list[tuple[str, str]]:
    """Draw prompts and answers from the demo model's generator with a seed."""
    from dialogues import Dialogues  # beside the demo model's training script

    rng, dialogues = random.Random(seed), Dialogues()  # noqa: S311 - examples, no secrets
    samples = [dialogues.sample(rng) for _ in range(count)]
    return [(sample.prompt, sample.answer) for sample in samples]


def make_examples(model: TorchModel, pairs: Sequence[tuple[str, str]]) -> list[Example]:
    """Turn conversations into what the network takes."""
    result = []
    for prompt, answer in pairs:
        ids = model.tokenizer.encode_completion(prompt)
        first = len(ids)
        ids = [*ids, *model.tokenizer.encode(answer), min(model.tokenizer.stop_token_ids)]
        layout = model.network.find_layout(ids[:first])  # type: ignore[operator]
        mask = build_visibility_mask(
            torch.arange(len(ids))[None], torch.tensor([layout.context_length]), len(ids)
        )
        positions = layout.compute_position_ids(0, len(ids)).unsqueeze(0)
        result.append(Example(torch.tensor([ids]), positions, mask, first))
    return result


@torch.inference_mode()
def compute_answer_logits(model: TorchModel, example: Example) -> Tensor:
    """Compute logits ``[answer tokens, V]`` that predict the answer."""
    logits = model.network(example.input_ids, example.position_ids, example.mask)[0]
    return logits[example.first - 1 : -1].float()


def compute_perplexity(
    model: TorchModel, tests: Sequence[Example], exact: Sequence[Tensor]
) -> tuple[float, float]:
    """Compute perplexity of the answers, and the share of their tokens at which the float model agrees."""
    loss, agreeing, count = 0.0, 0, 0
    for example, reference in zip(tests, exact, strict=True):
        logits, targets = compute_answer_logits(model, example), example.input_ids[0, example.first :]
        loss += F.cross_entropy(logits, targets, reduction="sum").item()
        agreeing += int((logits.argmax(1) == reference.argmax(1)).sum())
        count += len(targets)
    return float(torch.tensor(loss / count).exp()), agreeing / count


def count_right_answers(model: TorchModel) -> int:
    """Count which of the 60 prompts are answered with the words that a right answer holds."""
    text = (ROOT / "tests" / "glm_model_demo" / "answers.jsonl").read_text("utf-8")
    right = 0
    for prompt in map(json.loads, text.splitlines()):
        history: list[tuple[str, str]] = []
        for turn in prompt["turns"]:
            request = ChatRequest(
                build_messages(history, turn), Sampling(do_sample=False, max_new_tokens=160)
            )
            history.append((turn, "".join(delta.text for delta in model.stream(request))))
        answer = history[-1][1].lower()
        right += all(any(word.lower() in answer for word in group) for group in prompt["expect"])
    return right


class Dequantized(nn.Module):
    """What a quantised layer computes, its matrix dequantised once instead of at every call."""

    def __init__(self, layer: QuantizedLinear, mode: str) -> None:
        super().__init__()
        self._mode, self._bias = mode, layer.bias
        self._weight = dequantize_rows(
            layer.weight, layer.weight_scale, layer.bits, torch.float32, layer.group_size
        )

    def forward(self, x: Tensor) -> Tensor:
        """Map ``[..., in]`` to ``[..., out]``, the inputs rounded first."""
        return F.linear(round_inputs(x, self._mode), self._weight, self._bias)


def open_model(directory: Path) -> TorchModel:
    """Open a model in float32, its weights still to be read."""
    model = open_source(ModelSource("demo", directory), "float32")
    assert isinstance(model, TorchModel)
    return model


def measure_model(
    model: TorchModel, pairs: Sequence[tuple[str, str]], exact: Sequence[Tensor], mode: str
) -> dict[str, float]:
    """Read what is left of a model and measure it with its quantised layers' inputs rounded."""
    model.materialize(CPU)
    for parent in list(model.network.modules()):
        for name, module in list(parent.named_children()):
            if isinstance(module, QuantizedLinear):
                setattr(parent, name, Dequantized(module, mode))
    model.start(CPU, slots=1)
    try:
        ppl, agreement = compute_perplexity(model, make_examples(model, pairs), exact)
        return {"perplexity": ppl, "agreement": agreement, "right": count_right_answers(model)}
    finally:
        model.close()


def generate_variants(directory: Path, folder: Path) -> Iterator[tuple[str, Callable[[], TorchModel], str]]:
    """Name, how to open it, and what becomes of activations."""
    yield "float", lambda: open_model(directory), "float"
    for name in ("int8", "int4", "int4-g64", "int4-g32"):  # 192 inputs do not divide by 128
        scheme = QuantizationScheme.parse(name)
        yield f"{name} rtn", lambda scheme=scheme: quantize_model(directory, scheme), "float"
        target = folder / f"{name}-gptq"
        flags = ["--bits", str(scheme.bits), "--group-size", str(scheme.group_size), "--method", "gptq"]
        flags += ["--calibration", str(folder / "calibration.jsonl")]
        with contextlib.redirect_stdout(sys.stderr):
            assert glm(["quantize", str(directory), str(target), *flags]) == 0
        yield f"{name} gptq", lambda target=target: open_model(target), "float"
    for name, mode in itertools.product(("int8", "int4"), ACTIVATIONS[2:]):
        scheme = QuantizationScheme.parse(name)
        yield f"{name} rtn, {mode}", lambda scheme=scheme: quantize_model(directory, scheme), mode
    for name, table_name in itertools.product(("int8", "int4"), ("int8", "int4", "int4-g64", "int4-g32")):
        scheme, table = QuantizationScheme.parse(name), QuantizationScheme.parse(table_name)
        for mode in ("float", "int8/32", "int8/128") if table.bits == 8 else ("float",):
            yield (
                f"{name} rtn, table {table}, {mode}",
                lambda scheme=scheme, table=table: quantize_model(directory, scheme, table),
                mode,
            )


def quantize_model(
    directory: Path, scheme: QuantizationScheme, table: QuantizationScheme | None = None
) -> TorchModel:
    """Open the model and quantise it as it is loaded."""
    model = open_model(directory)
    model.quantize(scheme, embeddings=table)
    return model


def measure_demo(count: int) -> dict[str, dict[str, float]]:
    """Measure every variant of the demo model."""
    directory = glm_core.resolve_model("demo")
    pairs, results = draw_conversations(count, TEST_SEED), {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        lines = [
            json.dumps({"prompt": prompt, "response": answer}, ensure_ascii=False)
            for prompt, answer in draw_conversations(128, CALIBRATION_SEED)
        ]
        (folder / "calibration.jsonl").write_text("\n".join(lines), "utf-8")
        reference = open_model(directory)
        reference.materialize(CPU)
        exact = [compute_answer_logits(reference, example) for example in make_examples(reference, pairs)]
        for variant, open_it, mode in generate_variants(directory, folder):
            results[variant] = measure_model(open_it(), pairs, exact, mode)
            row = results[variant]
            print(
                f"{variant:34} {row['perplexity']:9.5f} {100 * row['agreement']:8.2f} % {row['right']:6}",
                flush=True,
            )
    return results


def main() -> None:
    """Measure and report."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--layer", type=int, default=1024, help="inputs and outputs of a single layer")
    parser.add_argument("--conversations", type=int, default=300)
    options = parser.parse_args()
    torch.set_num_threads(1)  # small matrices; threads would only wait for one another on a busy machine
    errors = measure_layers(options.layer)
    for layer, rows in errors.items():
        print(
            f"\n{layer}: relative error of the output, %\n{'':18}", *(f"{mode:>11}" for mode in ACTIVATIONS)
        )
        for name, row in rows.items():
            print(f"{name:18}", *(f"{100 * row[mode]:11.3f}" for mode in ACTIVATIONS))
    print(f"\n{'the demo model':34} perplexity same token  right of 60")
    print(json.dumps({"layers": errors, "demo": measure_demo(options.conversations)}))


if __name__ == "__main__":
    main()
