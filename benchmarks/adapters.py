"""What do adapters that stay beside one model cost: memory each, time to add, decode speed of a batch?

    python benchmarks/adapters.py [--layers 10] [--hidden 2048] [--length 128] [--runs 3] [--report FILE.md]

On the demo model and on a random ChatGLM-6B (v1) checkpoint of about 1 GB, with random adapters of 128
positions (the original's ``pre_seq_len``) that are added while the model runs:

- resident memory that 0, 1, 8 and 32 of them take, each count in a fresh process, by the operating
  system's own accounting, beside the bytes of their keys and values, and the seconds that adding one takes;
- tokens a second of 16 requests at the same time, while all of them decode: without an adapter, with one,
  with eight. An adapter's positions are attended to like a prompt's, so a fourth line has no adapter and
  a prompt that is longer by as many tokens: what several adapters cost beyond that is the price of mixing.

Warm-up is left out, medians are reported, runs of the four take turns, the last line is JSON.
"""

from __future__ import annotations

import argparse
import gc
import itertools
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from glm_jobs.bench.prompts import find_word_count, make_question
from glm_jobs.bench.rates import compute_decode_rate
from glm_jobs.bench.streams import run_together
from glm_runtime_torch.adapters.prefix import PrefixAdapter
from glm_runtime_torch.model.torch_model import TorchModel
from random_checkpoint import write_checkpoint
from reporting import count_busy_cores, describe_machine, format_machine, format_table, write_report
from safetensors.torch import save_file

import glm_core
from glm_core import ChatModel, ChatRequest, Message, Sampling

STATUS = Path("/proc/self/status")
STORED_NAME = "transformer.prefix_encoder.embedding.weight"
DISTINCT = 8  # adapter files; a higher count loads them again under other names


def main() -> None:
    """Measure each model and report."""
    options = _parse_options()
    if options.measure:
        print(json.dumps(_measure_memory(options.measure, options.adapters, int(options.counts))))
        return
    counts = [int(part) for part in options.counts.split(",")]
    busy = count_busy_cores()
    with tempfile.TemporaryDirectory() as folder:
        demo = glm_core.resolve_model("demo")
        random = write_checkpoint(
            Path(folder) / "model", num_layers=options.layers, hidden_size=options.hidden
        )
        models = [
            _measure(name, directory, Path(folder) / f"adapters-{name}", counts, options)
            for name, directory in (("demo", demo), ("random", random))
        ]
    result = {
        "machine": describe_machine(),
        "busy_cores_before": busy,
        "pre_seq_len": options.length,
        "batch": options.batch,
        "prompt_tokens": options.prompt,
        "new_tokens": options.tokens,
        "runs": options.runs,
        "models": models,
    }
    write_report(options.report, _report(result), result)


def _parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--layers", type=int, default=10)
    parser.add_argument("--hidden", type=int, default=2048)
    parser.add_argument("--length", type=int, default=128, help="positions of each adapter")
    parser.add_argument("--counts", default="0,1,8,32", help="how many adapters are resident")
    parser.add_argument("--batch", type=int, default=16, help="requests at the same time")
    parser.add_argument("--prompt", type=int, default=64, help="tokens of each prompt")
    parser.add_argument("--tokens", type=int, default=64, help="tokens to decode")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--report", type=Path, help="write this file, and the same with .json")
    parser.add_argument("--measure", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--adapters", type=Path, help=argparse.SUPPRESS)
    return parser.parse_args()


def _measure(
    name: str, directory: Path, adapters: Path, counts: Sequence[int], options: argparse.Namespace
) -> dict[str, Any]:
    """Measure everything about one model."""
    _write_adapters(adapters, directory, options.length)
    memory = [_measure_in_fresh_process(directory, adapters, count) for count in counts]
    with glm_core.load(directory, device="cpu", slots=options.batch) as model:
        for number in range(DISTINCT):
            model.add_adapter(f"a{number}", adapters / f"a{number}")
        return {
            "model": name,
            "parameters": model.info.num_parameters,
            "weight_bytes": model.info.weight_bytes,
            "dtype": model.info.dtype,
            "memory": memory,
            "decode": _measure_speeds(model, options),
        }


def _write_adapters(folder: Path, directory: Path, length: int) -> None:
    """Write random keys and values in the original trainer's form, small enough to leave answers sane."""
    config = json.loads((directory / "config.json").read_text("utf-8"))
    width = config["num_layers"] * 2 * config["hidden_size"]
    generator = torch.Generator().manual_seed(0)
    for number in range(DISTINCT):
        place = folder / f"a{number}"
        place.mkdir(parents=True)
        rows = torch.randn(length, width, generator=generator)
        save_file({STORED_NAME: rows}, place / "model.safetensors")


def _measure_in_fresh_process(directory: Path, adapters: Path, count: int) -> dict[str, Any]:
    command = [sys.executable, __file__, "--measure", str(directory), "--adapters", str(adapters)]
    done = subprocess.run([*command, "--counts", str(count)], check=True, stdout=subprocess.PIPE, text=True)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def _measure_memory(directory: Path, adapters: Path, count: int) -> dict[str, Any]:
    """Load, answer once, add so many adapters, and return what they took; run in the fresh process."""
    with glm_core.load(directory, device="cpu") as model:
        run_together(model, [_make_request("hello", None, 2)])
        for number in range(DISTINCT):  # what the first ones import and allocate is not counted
            model.add_adapter("warm-up", adapters / f"a{number}")
            model.remove_adapter("warm-up")
        gc.collect()
        before, seconds = _read_own_bytes(), []
        for number in range(count):
            started = time.perf_counter()
            model.add_adapter(f"a{number}", adapters / f"a{number % DISTINCT}")
            seconds.append(time.perf_counter() - started)
        gc.collect()
        return {
            "adapters": count,
            "bytes_each": _count_prefix_bytes(model, "a0") if count else None,
            "own_bytes": _read_own_bytes(),
            "own_bytes_added": _read_own_bytes() - before,
            "add_seconds": statistics.median(seconds) if seconds else None,
        }


def _count_prefix_bytes(model: ChatModel, name: str) -> int:
    """Count the bytes of an adapter's keys and values."""
    assert isinstance(model.loaded, TorchModel)
    adapter = model.loaded.engine.adapters.get(name)
    assert isinstance(adapter, PrefixAdapter)
    return adapter.key_values.nbytes


def _read_own_bytes() -> int:
    """Read how many resident bytes are not pages of a file, as the operating system counts them."""
    values = dict(line.split(":", 1) for line in STATUS.read_text("ascii").splitlines())
    return sum(int(values[field].split()[0]) * 1024 for field in ("RssAnon", "RssShmem"))


def _measure_speeds(model: ChatModel, options: argparse.Namespace) -> list[dict[str, Any]]:
    """Measure tokens a second of a batch without adapters, with one, with eight, and with longer prompts."""

    def count_tokens(text: str) -> int:
        [timeline] = run_together(model, [_make_request(text, None, 1)])
        return timeline.usage.prompt_tokens

    words = find_word_count(options.prompt, count_tokens)
    more_words = find_word_count(options.prompt + options.length, count_tokens)
    cases: Mapping[str, tuple[int, Sequence[str | None]]] = {
        "none": (words, (None,)),
        "1": (words, ("a0",)),
        "8": (words, tuple(f"a{number}" for number in range(DISTINCT))),
        f"none, {options.length} more tokens of prompt": (more_words, (None,)),
    }
    rates: dict[str, list[float]] = {name: [] for name in cases}
    fresh = itertools.count()
    for run in range(options.runs + 1):
        for name, (num_words, adapters) in cases.items():
            requests = [
                _make_request(
                    make_question(num_words, next(fresh)), adapters[number % len(adapters)], options.tokens
                )
                for number in range(options.batch)
            ]
            rate = compute_decode_rate(run_together(model, requests))
            if run and rate is not None:  # the first round warms up
                rates[name].append(rate)
    return [
        {"adapters": name, "tokens_per_second": statistics.median(found) if found else None, "runs": found}
        for name, found in rates.items()
    ]


def _make_request(text: str, adapter: str | None, new_tokens: int) -> ChatRequest:
    sampling = Sampling(max_new_tokens=new_tokens, do_sample=False, ignore_eos=True)
    return ChatRequest((Message("user", text),), sampling, adapter=adapter)


def _report(result: dict[str, Any]) -> str:
    parts = [
        format_machine(result["machine"]),
        f"Adapters of {result['pre_seq_len']} positions, added while the model runs;",
        f"{result['batch']} requests of {result['prompt_tokens']} prompt",
        f"and {result['new_tokens']} new tokens, medians of {result['runs']} runs.",
        f"Other programs used {result['busy_cores_before']} cores before.",
    ]
    for model in result["models"]:
        parts += [
            "",
            f"**{model['model']}**: {model['parameters'] / 1e6:,.1f} M parameters, {model['dtype']}, "
            f"{model['weight_bytes'] / 1e9:.3f} GB of weights.",
            "",
            format_table(
                ("Adapters resident", "Keys and values each", "Memory added", "of it each", "Adding one"),
                [_format_memory_row(cell) for cell in model["memory"]],
            ),
            "",
            format_table(
                ("Adapters in the batch", "Decode tokens/s", "against none"),
                _format_speed_rows(model["decode"]),
            ),
        ]
    return "\n".join(parts)


def _format_memory_row(cell: dict[str, Any]) -> tuple[str, ...]:
    count, added = cell["adapters"], cell["own_bytes_added"] / 1e6
    if not count:
        return ("0", "-", f"{added:.1f} MB", "-", "-")
    return (
        str(count),
        f"{cell['bytes_each'] / 1e6:.2f} MB",
        f"{added:.1f} MB",
        f"{added / count:.2f} MB",
        f"{cell['add_seconds'] * 1e3:.0f} ms",
    )


def _format_speed_rows(cells: Sequence[dict[str, Any]]) -> list[tuple[str, ...]]:
    base = cells[0]["tokens_per_second"]

    def format_row(cell: dict[str, Any]) -> tuple[str, ...]:
        rate = cell["tokens_per_second"]
        return (
            cell["adapters"],
            "-" if rate is None else f"{rate:.1f}",
            f"{rate / base:.3f}" if rate and base else "-",
        )

    return [format_row(cell) for cell in cells]


if __name__ == "__main__":
    main()
