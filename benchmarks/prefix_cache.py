"""How long does a conversation's next answer take to begin, with and without the prefix cache?

    python benchmarks/prefix_cache.py [--turns 6] [--words 220] [--quantize int4] [--report FILE.md]

Makes a random ChatGLM3 checkpoint of about 1 GB and holds a conversation whose questions and answers are
long. Each turn is asked twice of the same model: once as it stands, so that the keys and values of the
earlier turns are reused, and once after everything that the slots held was forgotten. Both answers must be
equal. ChatGLM-6B has no such cache: its context sees itself in both directions.

Turns are repeated in rounds; medians are reported; the last line is JSON. Two minutes on two cores.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

from glm_jobs.bench.prompts import make_question
from random_checkpoint import write_chatglm3_checkpoint
from reporting import count_busy_cores, describe_machine, format_machine, format_table, write_report

import glm_core
from glm_core import ChatModel, ChatRequest, Message, Sampling


def main() -> None:
    """Measure and report."""
    options = _parse_options()
    busy = count_busy_cores()
    with tempfile.TemporaryDirectory() as folder:
        directory = write_chatglm3_checkpoint(
            Path(folder), num_layers=options.layers, hidden_size=options.hidden
        )
        model = glm_core.load(directory, device="cpu", quantize=options.quantize, slots=2)
    with model:
        _answer(model, _make_conversation(1, options.words))  # warm-up
        rounds = [_run_round(model, options.turns, options.words) for _ in range(options.runs)]
        result: dict[str, Any] = {
            "machine": describe_machine(),
            "busy_cores_before": busy,
            "parameters": model.info.num_parameters,
            "weight_bytes": model.info.weight_bytes,
            "quantize": options.quantize,
            "turns": [_take_medians(turn) for turn in zip(*rounds, strict=True)],
        }
    write_report(options.report, _report(result), result)


def _parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--layers", type=int, default=14)
    parser.add_argument("--hidden", type=int, default=2048)
    parser.add_argument("--quantize", default="int4", help="while loading: none, int8, int4")
    parser.add_argument("--turns", type=int, default=6)
    parser.add_argument("--words", type=int, default=220, help="of each question and each answer")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--report", type=Path, help="write this file, and the same with .json")
    return parser.parse_args()


def _make_conversation(turns: int, words: int) -> ChatRequest:
    """Make the conversation up to the question of a turn."""
    messages = [Message("system", make_question(words, 1000))]
    for turn in range(turns):
        messages.append(Message("user", make_question(words, 2 * turn)))
        messages.append(Message("assistant", make_question(words, 2 * turn + 1)))
    return ChatRequest(tuple(messages[:-1]), Sampling(do_sample=False, max_new_tokens=4, ignore_eos=True))


def _run_round(model: ChatModel, turns: int, words: int) -> list[dict[str, float]]:
    """Ask every turn with the cache, then every turn without."""
    requests = [_make_conversation(turn, words) for turn in range(1, turns + 1)]
    _forget(model)
    cached = [_answer(model, request) for request in requests]
    found = []
    for request, with_cache in zip(requests, cached, strict=True):
        _forget(model)
        without = _answer(model, request)
        if without["tokens"] != with_cache["tokens"]:
            raise SystemExit("the cached answer differs from the uncached one")
        found.append(
            {
                "prompt_tokens": without["prompt_tokens"],
                "cached_tokens": with_cache["cached_tokens"],
                "with": with_cache["first"],
                "without": without["first"],
            }
        )
    return found


def _answer(model: ChatModel, request: ChatRequest) -> dict[str, Any]:
    started = time.perf_counter()
    first, tokens = 0.0, []
    for delta in model.stream(request):
        if delta.token_ids and not first:
            first = time.perf_counter() - started
        tokens += delta.token_ids
        usage = delta.usage
    assert usage is not None
    return {
        "first": first,
        "tokens": tokens,
        "prompt_tokens": usage.prompt_tokens,
        "cached_tokens": usage.cached_tokens,
    }


def _forget(model: ChatModel) -> None:
    """Let the slots forget what they hold, as if the server had just started."""
    model.loaded.engine.forget_prompts()  # type: ignore[attr-defined]


def _take_medians(runs: tuple[dict[str, float], ...]) -> dict[str, float]:
    return {key: statistics.median(run[key] for run in runs) for key in runs[0]}


def _report(result: dict[str, Any]) -> str:
    rows = [
        (
            number,
            f"{turn['prompt_tokens']:.0f}",
            f"{turn['cached_tokens']:.0f}",
            f"{turn['without'] * 1000:.0f}",
            f"{turn['with'] * 1000:.0f}",
            f"{turn['without'] / turn['with']:.1f}",
        )
        for number, turn in enumerate(result["turns"], start=1)
    ]
    headings = ("turn", "prompt tokens", "reused", "first token without, ms", "with, ms", "ratio")
    return "\n".join(
        [
            "# Prefix cache: time to the first token of a conversation's next answer",
            "",
            format_machine(result["machine"]),
            f"Random ChatGLM3 network of {result['parameters'] / 1e6:.0f} million parameters, "
            f"{result['weight_bytes'] / 1e9:.2f} GB, --quantize {result['quantize']}; medians.",
            "Cached and uncached answers were equal in every run.",
            "",
            format_table(headings, rows),
        ]
    )


if __name__ == "__main__":
    main()
