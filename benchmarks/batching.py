"""What do requests at the same time gain, and how long does a long prompt stall the others?

    python benchmarks/batching.py [--quantize none] [--layers 10] [--hidden 2048] [--report FILE.md]

Makes a random ChatGLM-6B (v1) checkpoint of about 1 GB, loads it as ``glm --device cpu`` does, and measures

- tokens a second of 1, 2, 4, 8 and 16 requests at the same time, while all of them decode;
- the longest gap between two tokens of a running answer, with and without a prompt of 1,500 tokens
  that is admitted meanwhile.

Warm-up is left out, medians are reported, the last line is JSON. Two and a half minutes on two cores.
"""

from __future__ import annotations

import argparse
import itertools
import queue
import statistics
import tempfile
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from glm_jobs.bench import Plan, measure
from glm_jobs.bench.prompts import find_word_count, make_question
from glm_jobs.bench.rates import compute_time_to_first_token
from glm_jobs.bench.streams import Timeline, run_together
from random_checkpoint import write_checkpoint
from reporting import count_busy_cores, describe_machine, format_machine, format_table, write_report

import glm_core
from glm_core import ChatModel, ChatRequest, Message, Sampling

TOKENS_BEFORE = 8  # of the running answer, before the long prompt comes
TOKENS_AFTER = 8  # and after it has its first token


def main() -> None:
    """Measure and report."""
    options = _parse_options()
    batches = tuple(int(part) for part in options.batches.split(","))
    busy = count_busy_cores()
    with tempfile.TemporaryDirectory() as folder:
        directory = write_checkpoint(
            Path(folder), num_layers=options.layers, hidden_size=options.hidden, form=options.form
        )
        model = glm_core.load(directory, device="cpu", quantize=options.quantize, slots=max(2, *batches))
    with model:
        plan = Plan((options.prompt,), options.tokens, batches, options.runs)
        cells = [
            {
                "streams": cell.batch,
                "answer_tokens": cell.answer_tokens[1],
                "decode": cell.decode and cell.decode.median,
                "total": cell.total and cell.total.median,
            }
            for cell in measure(model, plan)
        ]
        stalls = _measure_stalls(model, options.long_prompt, options.runs)
        result = {
            "machine": describe_machine(),
            "busy_cores_before": busy,
            "parameters": model.info.num_parameters,
            "weight_bytes": model.info.weight_bytes,
            "form": options.form,
            "quantize": options.quantize,
            "prompt_tokens": options.prompt,
            "new_tokens": options.tokens,
            "batches": cells,
            "long_prompt": stalls,
        }
    write_report(options.report, _report(result), result)


def _parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--layers", type=int, default=10)
    parser.add_argument("--hidden", type=int, default=2048)
    parser.add_argument("--form", default="float16", help="how the checkpoint is stored: float16, int8, int4")
    parser.add_argument("--quantize", default="none", help="while loading: none, int8, int4")
    parser.add_argument("--batches", default="1,2,4,8,16")
    parser.add_argument("--prompt", type=int, default=64, help="tokens of each prompt")
    parser.add_argument(
        "--long-prompt", type=int, default=1500, help="tokens of the one that is admitted later"
    )
    parser.add_argument("--tokens", type=int, default=64, help="tokens to decode")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--report", type=Path, help="write this file, and the same with .json")
    return parser.parse_args()


@dataclass(frozen=True)
class _Stall:
    """One running answer: its longest and its median gap in seconds, and the newcomer's first token."""

    longest: float
    usual: float
    first_token: float | None


def _measure_stalls(model: ChatModel, long_prompt: int, runs: int) -> dict[str, Any]:
    def count_tokens(text: str) -> int:
        [timeline] = run_together(model, [_make_request(text, 1)])
        return timeline.usage.prompt_tokens

    num_words = find_word_count(long_prompt, count_tokens)
    with_it = [_measure_stall(model, make_question(num_words, number)) for number in range(runs)]
    tokens = 2 * TOKENS_BEFORE + TOKENS_AFTER
    without = [_measure_stall(model, None, tokens) for _ in range(runs)]
    alone = [
        run_together(model, [_make_request(make_question(num_words, 1000 + number), 1)])[0]
        for number in range(runs)
    ]
    return {
        "prompt_tokens": alone[0].usage.prompt_tokens,
        "with": _take_medians(with_it),
        "without": _take_medians(without),
        "first_token_alone": statistics.median(
            compute_time_to_first_token(timeline) or 0.0 for timeline in alone
        ),
    }


def _measure_stall(model: ChatModel, newcomer: str | None, tokens: int = 0) -> _Stall:
    """Read an answer while a newcomer is admitted, or for so many tokens without one."""
    admitted: queue.SimpleQueue[Timeline | BaseException] = queue.SimpleQueue()

    def admit() -> None:
        try:
            admitted.put(run_together(model, [_make_request(newcomer or "", 1)])[0])
        except BaseException as error:  # handed to the reader
            admitted.put(error)

    times: list[float] = []
    outcome: Timeline | None = None
    left = TOKENS_AFTER
    with model.stream(_make_request(make_question(16), model.info.context_length // 2)) as deltas:
        for delta in deltas:
            if not delta.token_ids:
                continue
            times.append(time.perf_counter())
            if newcomer is None:
                if len(times) == tokens:
                    break
            elif outcome is not None:
                left -= 1
                if not left:
                    break
            elif len(times) == TOKENS_BEFORE:
                threading.Thread(target=admit, daemon=True).start()
            elif not admitted.empty():
                found = admitted.get()
                if isinstance(found, BaseException):
                    raise found
                outcome = found
    gaps = [after - before for before, after in itertools.pairwise(times[1:])]
    first = None if outcome is None else compute_time_to_first_token(outcome)
    return _Stall(max(gaps), statistics.median(gaps), first)


def _take_medians(stalls: list[_Stall]) -> dict[str, float | None]:
    firsts = [stall.first_token for stall in stalls if stall.first_token is not None]
    return {
        "longest_gap_seconds": statistics.median(stall.longest for stall in stalls),
        "median_gap_seconds": statistics.median(stall.usual for stall in stalls),
        "first_token_seconds": statistics.median(firsts) if firsts else None,
    }


def _make_request(text: str, new_tokens: int) -> ChatRequest:
    sampling = Sampling(max_new_tokens=new_tokens, do_sample=False, ignore_eos=True)
    return ChatRequest((Message("user", text),), sampling)


def _report(result: dict[str, Any]) -> str:
    stalls = result["long_prompt"]
    one = result["batches"][0]

    def format_gain(cell: dict[str, Any], key: str) -> str:
        return f"{cell[key] / one[key]:.2f}" if cell[key] and one[key] else "-"

    speeds = [
        (
            cell["streams"],
            cell["answer_tokens"],
            "-" if cell["decode"] is None else f"{cell['decode']:.1f}",
            format_gain(cell, "decode"),
            "-" if cell["decode"] is None else f"{cell['decode'] / cell['streams']:.1f}",
            f"{cell['total']:.1f}",
            format_gain(cell, "total"),
        )
        for cell in result["batches"]
    ]
    gaps = [
        (
            name,
            f"{stalls[key]['longest_gap_seconds'] * 1e3:.0f} ms",
            f"{stalls[key]['median_gap_seconds'] * 1e3:.0f} ms",
            "-" if first is None else f"{first:.2f} s",
        )
        for name, key, first in (
            ("without", "without", stalls["first_token_alone"]),
            ("with", "with", stalls["with"]["first_token_seconds"]),
        )
    ]
    return "\n".join(
        [
            format_machine(result["machine"]),
            f"{result['parameters'] / 1e6:,.0f} M random weights stored as {result['form']},",
            f"--quantize {result['quantize']}, {result['weight_bytes'] / 1e9:.2f} GB in memory.",
            f"{result['prompt_tokens']} prompt and {result['new_tokens']} new tokens.",
            f"Other programs used {result['busy_cores_before']} cores before.",
            "",
            format_table(
                (
                    "Streams",
                    "Answer",
                    "Decode tokens/s",
                    "against one",
                    "each",
                    "With prefill",
                    "against one",
                ),
                speeds,
            ),
            "",
            f"A prompt of {stalls['prompt_tokens']:,} tokens is admitted beside a running answer:",
            "",
            format_table(
                ("Long prompt", "Longest gap", "Median gap", "Its first token (alone, beside)"), gaps
            ),
        ]
    )


if __name__ == "__main__":
    main()
