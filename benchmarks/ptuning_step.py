"""What do a step of P-Tuning v2 and its memory cost, beside PEFT, and at ChatGLM-6B's size?

    python benchmarks/ptuning_step.py [--report FILE.md]                # the CPU, beside PEFT
    python benchmarks/ptuning_step.py --device cuda [--report FILE.md]  # one NVIDIA GPU: the published recipe
    python benchmarks/ptuning_step.py --tiny                            # either on a tiny shape, as a trial

On the CPU three contenders of one shape (the feed-forward part is scaled so that the numbers of weights
agree) train a prefix in float32 over frozen random weights, each in a process of its own:

- glm, ChatGLM-6B's network;
- glm, the network that transformers calls ``glm``;
- transformers' GlmForCausalLM with PEFT's prefix tuning, as their documentation has it.

On a GPU it is the recipe that was published with ChatGLM-6B, on its size with random weights: int4, prefix
of 128, 64 + 64 tokens, 16 passes of one row. Steps are real ones: rows, loss, gradient, optimiser. The
first ones are left out. Peak memory is the process's largest resident size on the CPU; on the GPU it is the
allocator's peak, and what it reserved is named too. Without an NVIDIA GPU ``--device cuda`` says so and exits
with 2. The last line is JSON.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import logging
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from glm_ptuning._examples import ExampleLengths, MicroBatches
from glm_ptuning._loop import TrainingLoop, TrainingTask
from glm_ptuning._processes import Processes
from glm_ptuning._settings import parse_settings
from glm_ptuning._trainable import TrainedPrefix
from glm_runtime_torch.adapters.files import BaseModel
from glm_runtime_torch.architectures.chatglm import ChatGLMConfig
from glm_runtime_torch.families.registry import CHATGLM, NATIVE, Family
from glm_runtime_torch.model.torch_model import TorchModel
from glm_runtime_torch.network.empty_weights import build_without_weights
from glm_runtime_torch.network.parameters import count_parameters, list_unique_parameters, replace_parameter
from glm_runtime_torch.quantization import expect_stored_form
from glm_runtime_torch.tokenizers.training_rows import TrainingIds
from reporting import count_busy_cores, describe_machine, format_machine, format_table, write_report

WEIGHT_DEVIATION = 0.02
WARM_UP = 2
CONTENDERS = {
    "glm-chatglm": "glm, ChatGLM-6B's network",
    "glm-native": "glm, transformers' network",
    "peft": "transformers + PEFT",
}


@dataclasses.dataclass(frozen=True)
class Shape:
    """Sizes of a model and of a step."""

    layers: int
    hidden: int
    heads: int
    vocabulary: int
    prefix: int
    source: int = 64
    target: int = 64
    passes: int = 16
    steps: int = 5

    def __str__(self) -> str:
        return (
            f"{self.layers} layers, hidden size {self.hidden}, vocabulary {self.vocabulary}; prefix of "
            f"{self.prefix}; {self.passes} passes of one row of {self.source} + {self.target} tokens a step; "
            f"median of {self.steps} steps."
        )


CPU_SHAPE = Shape(layers=8, hidden=1024, heads=16, vocabulary=32000, prefix=128, passes=4)
GPU_SHAPE = Shape(layers=28, hidden=4096, heads=32, vocabulary=130528, prefix=128)
TINY_SHAPE = Shape(
    layers=2, hidden=64, heads=4, vocabulary=512, prefix=8, source=8, target=8, passes=2, steps=2
)


def main() -> int:
    """Measure what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cpu", help="cpu, cuda or cuda:N (cpu)")
    parser.add_argument("--tiny", action="store_true", help="a tiny shape, to see that everything runs")
    parser.add_argument("--report", type=Path, metavar="FILE.md", help="also write it there, JSON beside it")
    parser.add_argument("--contender", choices=CONTENDERS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    logging.getLogger("glm").setLevel(logging.ERROR)
    if options.contender:
        print(json.dumps(measure_contender(options.contender, TINY_SHAPE if options.tiny else CPU_SHAPE)))
        return 0
    if options.device == "cpu":
        return compare_on_cpu(TINY_SHAPE if options.tiny else CPU_SHAPE, options.tiny, options.report)
    if not torch.cuda.is_available():
        print(f"device {options.device} cannot be used: this PyTorch sees no NVIDIA GPU", file=sys.stderr)
        return 2
    return measure_recipe(
        TINY_SHAPE if options.tiny else GPU_SHAPE, torch.device(options.device), options.report
    )


def compare_on_cpu(shape: Shape, tiny: bool, report: Path | None) -> int:
    """Run every contender in a process of its own and report what they took."""
    facts, busy = describe_machine(), count_busy_cores()
    results = {}
    for name in CONTENDERS:
        command = [sys.executable, __file__, "--contender", name, *(["--tiny"] if tiny else [])]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            print(done.stderr, file=sys.stderr)
            return 1
        results[name] = json.loads(done.stdout.splitlines()[-1])
    rows = [
        [
            CONTENDERS[name],
            f"{result['weights'] / 1e6:.1f}",
            f"{result['step_seconds']:.3f}",
            f"{result['peak_bytes'] / 1e9:.2f}",
            f"{(result['peak_bytes'] - result['before_bytes']) / 1e9:.2f}",
        ]
        for name, result in results.items()
    ]
    text = "\n\n".join(
        (
            format_machine(facts) + f" {busy} cores were busy before.",
            f"float32; {shape}",
            format_table(
                ["", "million weights", "step, s", "peak, GB", "of it training, GB"],
                rows,
            ),
        )
    )
    result = {"machine": facts, "busy_cores": busy, "shape": dataclasses.asdict(shape), "results": results}
    write_report(report, text, result)
    return 0


def measure_recipe(shape: Shape, device: torch.device, report: Path | None) -> int:
    """Measure the published recipe on one GPU, with and without gradient checkpointing."""
    facts = describe_machine()
    results: dict[str, Any] = {"gpu": torch.cuda.get_device_name(device)}
    rows = []
    for checkpointing in (False, True):
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
        model = make_random_chatglm(shape, torch.float16, device, bits=4)
        seconds = measure_steps(model, shape, device, gradient_checkpointing=checkpointing)
        result = {
            "step_seconds": statistics.median(seconds),
            "peak_bytes": torch.cuda.max_memory_allocated(device),
            "reserved_bytes": torch.cuda.max_memory_reserved(device),
        }
        results["checkpointing" if checkpointing else "plain"] = result
        name = "with gradient checkpointing" if checkpointing else "plain"
        rows.append(
            [
                name,
                f"{result['step_seconds']:.3f}",
                *(f"{result[key] / 1e9:.2f}" for key in ("peak_bytes", "reserved_bytes")),
            ]
        )
        model.close()
    text = "\n\n".join(
        (
            format_machine(facts) + f" {results['gpu']}.",
            f"int4; {shape}",
            format_table(["", "step, s", "peak, GB", "reserved, GB"], rows),
        )
    )
    write_report(report, text, {"machine": facts, "shape": dataclasses.asdict(shape), "results": results})
    return 0


def measure_contender(name: str, shape: Shape) -> dict[str, Any]:
    """Measure steps of one contender in this process."""
    torch.manual_seed(0)
    if name == "peft":
        weights, before, seconds = measure_peft(shape)
    else:
        native = name == "glm-native"
        model = (
            make_random_native(shape)
            if native
            else make_random_chatglm(shape, torch.float32, torch.device("cpu"))
        )
        weights, before = count_parameters(model.network), read_peak_bytes()
        seconds = measure_steps(model, shape, torch.device("cpu"))
    return {
        "weights": weights,
        "before_bytes": before,
        "peak_bytes": read_peak_bytes(),
        "step_seconds": statistics.median(seconds),
        "all_seconds": seconds,
    }


def read_peak_bytes() -> int:
    """Read the largest resident size of this process so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def make_random_chatglm(shape: Shape, dtype: torch.dtype, device: torch.device, bits: int = 0) -> TorchModel:
    """Make a ChatGLM-6B network with random weights that are made where they stay."""
    v = shape.vocabulary
    config = ChatGLMConfig(
        num_layers=shape.layers,
        hidden_size=shape.hidden,
        num_heads=shape.heads,
        inner_hidden_size=4 * shape.hidden,
        vocab_size=v,
        mask_token_id=v - 5,
        gmask_token_id=v - 4,
        bos_token_id=v - 3,
        eos_token_id=v - 2,
    )
    with build_without_weights():
        network = CHATGLM.build(config)
        expect_stored_form(network, {"quantization_bit": bits})
    for name, parameter in list_unique_parameters(network):
        replace_parameter(network, parameter, make_random_weight(name, parameter, dtype, device))
    return as_model(CHATGLM, config, network, dtype)


def make_random_weight(
    name: str, parameter: torch.Tensor, dtype: torch.dtype, device: torch.device
) -> torch.Tensor:
    """Make random values of a parameter's shape; norms are 1."""
    if not parameter.is_floating_point():
        return torch.randint(-127, 128, parameter.shape, dtype=torch.int8, device=device)
    if name.endswith("weight_scale"):
        return torch.full(parameter.shape, WEIGHT_DEVIATION / 4, device=device)
    if parameter.dim() == 1:
        return (torch.ones if name.endswith("weight") else torch.zeros)(
            parameter.shape, dtype=dtype, device=device
        )
    return torch.empty(parameter.shape, dtype=dtype, device=device).normal_(std=WEIGHT_DEVIATION)


def make_native_config(shape: Shape) -> dict[str, Any]:
    """Make a configuration of transformers' ``glm``; its gated feed-forward part has a third matrix."""
    return {
        "model_type": "glm",
        "vocab_size": shape.vocabulary,
        "hidden_size": shape.hidden,
        "intermediate_size": 8 * shape.hidden // 3,
        "num_hidden_layers": shape.layers,
        "num_attention_heads": shape.heads,
        "num_key_value_heads": shape.heads,
        "head_dim": shape.hidden // shape.heads,
        "max_position_embeddings": 2048,
        "attention_bias": True,
        "tie_word_embeddings": True,
        "pad_token_id": 0,
        "eos_token_id": [1],
    }


def make_random_native(shape: Shape) -> TorchModel:
    """Make the same network as PEFT's contender, for glm to train."""
    family = next(entry for entry in NATIVE if entry.name == "glm")
    config = family.read_config(make_native_config(shape))
    return as_model(family, config, family.build(config), torch.float32)


def as_model(family: Family, config: Any, network: Any, dtype: torch.dtype) -> TorchModel:
    """Wrap a network without a tokenizer: rows are tokens already."""
    network.eval().requires_grad_(False)
    return TorchModel("random", family, config, network, None, dtype)  # type: ignore[arg-type]


def make_rows(shape: Shape, config: Any) -> list[TrainingIds]:
    """Make random rows; ChatGLM-6B's have its two control tokens before the answer."""
    rows = []
    for _ in range(2 * shape.passes):
        ids = torch.randint(10, shape.vocabulary - 10, (shape.source + shape.target,)).tolist()
        if isinstance(config, ChatGLMConfig):
            ids[shape.source - 1 : shape.source + 1] = [config.gmask_token_id, config.bos_token_id]
        rows.append(TrainingIds(ids, shape.source, shape.source, 0, 0, False, False))
    return rows


def measure_steps(
    model: TorchModel, shape: Shape, device: torch.device, *, gradient_checkpointing: bool = False
) -> list[float]:
    """Measure seconds of each step of glm's own loop, after some that do not count."""
    from glm_runtime_torch.training import use_gradient_checkpointing

    if gradient_checkpointing:
        use_gradient_checkpointing(model.network)
    encoder = model.family.build_prefix_encoder(model.config, shape.prefix, False).to(device)
    settings = parse_settings({"pre_seq_len": shape.prefix, "save_strategy": "no", "report_to": "none"})
    total = WARM_UP + shape.steps
    with tempfile.TemporaryDirectory() as folder:
        rows = make_rows(shape, model.config)
        task = TrainingTask(
            network=model.network,
            trainable=TrainedPrefix(model, encoder, BaseModel("random"), {}),
            device=device,
            half=model.dtype == torch.float16,
            pad_token_id=0,
            examples=rows,
            evaluation=[],
            order=MicroBatches(len(rows), 0, 0.0, 1, 0, drop_last=False),
            lengths=ExampleLengths(shape.source, shape.target),
            evaluation_lengths=ExampleLengths(shape.source, shape.target),
            micro_batches_per_step=shape.passes,
            total_steps=total,
            output_dir=Path(folder),
        )
        return measure_calls(
            iter(TrainingLoop(task, settings, Processes(device)).run()).__next__, total, device
        )


def measure_calls(step: Callable[[], Any], total: int, device: torch.device) -> list[float]:
    """Measure seconds of each call but the first ones."""
    seconds = []
    for _ in range(total):
        started = time.perf_counter()
        step()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        seconds.append(time.perf_counter() - started)
    return seconds[WARM_UP:]


def measure_peft(shape: Shape) -> tuple[int, int, list[float]]:
    """Measure transformers with PEFT: number of weights, memory before training, seconds of each step."""
    from peft import PrefixTuningConfig, TaskType, get_peft_model
    from transformers import AutoConfig, AutoModelForCausalLM

    keys = make_native_config(shape)
    config = AutoConfig.for_model(keys.pop("model_type"), **keys)
    base = AutoModelForCausalLM.from_config(config)
    weights, before = count_parameters(base), read_peak_bytes()
    prefix = PrefixTuningConfig(task_type=TaskType.CAUSAL_LM, num_virtual_tokens=shape.prefix)
    model = get_peft_model(base, prefix).train()
    optimizer = torch.optim.AdamW([value for value in model.parameters() if value.requires_grad], lr=5e-5)
    rows = make_rows(shape, config)
    number = iter(range(10**6))

    def step() -> None:
        for _ in range(shape.passes):
            row = rows[next(number) % len(rows)]
            ids = torch.tensor([row.token_ids])
            labels = ids.clone()
            labels[:, : row.first_target] = -100
            loss = model(input_ids=ids, attention_mask=torch.ones_like(ids), labels=labels).loss
            (loss / shape.passes).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()

    return weights, before, measure_calls(step, WARM_UP + shape.steps, torch.device("cpu"))


if __name__ == "__main__":
    sys.exit(main())
