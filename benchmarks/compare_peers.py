"""How fast is glm beside chatglm.cpp and llama.cpp, at ChatGLM-6B's size, on the same cores?

    python benchmarks/compare_peers.py [--build /tmp/glm-peers] [--models /tmp/glm-models] [--report FILE.md]
    python benchmarks/compare_peers.py --smoke      # one short round, to see that everything runs

Builds the peers (peers/build.sh) and writes random models where they are not there yet, then runs the
engines in turn, each in a process of its own and never two at once: A, B, C, A, B, C, ... Before and after
each run the memory's read bandwidth is measured. A ratio is taken within one round and its median over the
rounds is reported, because a shared machine's bandwidth moves between rounds. The last line is JSON.
Needs 12 GB of disk and 8 GB of memory; three rounds take about a quarter of an hour on two cores.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from reporting import count_busy_cores, describe_machine, format_machine, format_table, write_report

HERE = Path(__file__).resolve().parent
TEMPORARY = Path(tempfile.gettempdir())
BLOCKS_WEIGHTS = 28 * (3 + 1 + 4 + 4) * 4096**2
HEAD_WEIGHTS = 130528 * 4096
GGML_BITS = {"q4_0": 4.5, "q8_0": 8.5}  # 32 weights in 18 or 34 bytes


@dataclass(frozen=True)
class Row:
    """One measurement.

    Attributes:
        engine: who.
        round: from 1.
        prompt_tokens: length of each prompt.
        batch: sequences at the same time.
        prefill: prompt tokens a second, of one sequence alone.
        decode: tokens a second of all sequences together.
        bandwidth_share: what its steps read of the weights, by the bandwidth before and after its run.
    """

    engine: str
    round: int
    prompt_tokens: int
    batch: int
    prefill: float | None
    decode: float | None
    bandwidth_share: float | None


@dataclass(frozen=True)
class Speed:
    """What one run of an engine gave; ``step_bytes`` are the weights that each of its decode steps reads."""

    prompt_tokens: int
    batch: int
    prefill: float | None
    decode: float | None
    step_bytes: float


@dataclass(frozen=True)
class Engine:
    """One of those compared."""

    name: str
    measure: Callable[[], list[Speed]]


def main() -> None:
    """Prepare, measure in turn, report."""
    options = _parse_options()
    cores = sorted(os.sched_getaffinity(0))[: options.threads]
    os.sched_setaffinity(
        0, cores
    )  # inherited by every engine; chatglm.cpp takes its number of threads from it
    os.environ["OMP_NUM_THREADS"] = str(options.threads)
    options.models.mkdir(parents=True, exist_ok=True)
    build = json.loads(_read_output(["bash", str(HERE / "peers/build.sh"), str(options.build)]))
    engines = _prepare_engines(options, build)
    rows: list[Row] = []
    bandwidths: list[dict[str, Any]] = []
    for number in range(1, options.rounds + 1):
        for engine in engines:
            busy = count_busy_cores()
            before = _read_bandwidth(build, options.threads)
            print(
                f"round {number}: {engine.name} ({before / 1e9:.1f} GB/s, {busy} cores busy)", file=sys.stderr
            )
            speeds = engine.measure()
            after = _read_bandwidth(build, options.threads)
            note = {
                "round": number,
                "engine": engine.name,
                "busy_cores": busy,
                "before": before,
                "after": after,
            }
            bandwidths.append(note)
            for speed in speeds:
                steps = None if speed.decode is None else speed.decode / speed.batch
                share = None if steps is None else speed.step_bytes * steps * 2 / (before + after)
                case = (engine.name, number, speed.prompt_tokens, speed.batch)
                rows.append(Row(*case, speed.prefill, speed.decode, share))
    summary = _summarize(rows, [engine.name for engine in engines])
    result = {
        "machine": describe_machine() | {"threads": options.threads},
        "peers": build,
        "new_tokens": options.new_tokens,
        "rounds": options.rounds,
        "bandwidth": bandwidths,
        "summary": summary,
        "rows": [asdict(row) for row in rows],
    }
    write_report(options.report, _report(result), result)


def _parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--build", type=Path, default=TEMPORARY / "glm-peers", help="where the peers are built"
    )
    parser.add_argument(
        "--models", type=Path, default=TEMPORARY / "glm-models", help="where models are written"
    )
    parser.add_argument("--forms", default="int4+embeddings", help="our random checkpoints, with commas")
    parser.add_argument(
        "--checkpoint",
        type=Path,
        action="append",
        default=[],
        help="also measure this one of ours; repeatable",
    )
    parser.add_argument("--engines", default="glm,chatglm.cpp,llama.cpp", help="a choice of these")
    parser.add_argument("--type", choices=("q4_0", "q8_0"), default="q4_0", help="the peers' type")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--prompt-tokens", default="128,512")
    parser.add_argument("--new-tokens", type=int, default=32)
    parser.add_argument(
        "--batches", default="1,2,4,8", help="the larger ones with the first prompt length only"
    )
    parser.add_argument("--report", type=Path, help="write this file, and the same with .json")
    parser.add_argument(
        "--smoke", action="store_true", help="one round, 16 prompt and 4 new tokens, batch 1 and 2"
    )
    options = parser.parse_args()
    if options.smoke:
        options.rounds, options.prompt_tokens, options.new_tokens, options.batches = 1, "16", 4, "1,2"
    options.prompts = [int(part) for part in options.prompt_tokens.split(",")]
    options.batches = [int(part) for part in options.batches.split(",")]
    return options


def _prepare_engines(options: argparse.Namespace, build: dict[str, str]) -> list[Engine]:
    """Write the models that are missing and return the engines in their order."""
    chosen = options.engines.split(",")
    engines: list[Engine] = []
    if "glm" in chosen:
        checkpoints = {f"glm {directory.name}": directory for directory in options.checkpoint}
        for name in options.forms.split(",") if options.forms else ():
            checkpoints[f"glm {name}"] = _write_ours(options.models / name, name)
        engines += [_make_glm(name, directory, options) for name, directory in checkpoints.items()]
    if "chatglm.cpp" in chosen:
        model = _write_theirs("chatglm.cpp", "ggml", build, options)
        engines.append(_make_chatglm_cpp(f"chatglm.cpp {options.type}", model, build, options))
    if "llama.cpp" in chosen:
        model = _write_theirs("llama.cpp", "gguf", build, options)
        engines.append(_make_llama_cpp(f"llama.cpp {options.type}", model, build, options))
    return engines


def _write_ours(directory: Path, name: str) -> Path:
    """Write a checkpoint of a form such as ``int4`` or, with the embedding table, ``int4+embeddings``."""
    if not (directory / "config.json").is_file():
        form, plus, _ = name.partition("+")
        command = [sys.executable, str(HERE / "random_checkpoint.py"), str(directory), "--form", form]
        _read_output([*command, *(["--embeddings"] if plus else [])])
    return directory


def _write_theirs(engine: str, suffix: str, build: dict[str, str], options: argparse.Namespace) -> Path:
    model: Path = options.models / f"{engine}-{options.type}.{suffix}"
    if not model.is_file():
        program = str(HERE / "peers/random_model.py")
        _read_output([build["python"], program, engine, str(model), "--type", options.type])
    return model


def _make_glm(name: str, directory: Path, options: argparse.Namespace) -> Engine:
    """Run ``glm bench``, once for the prompts alone and once for the batches."""
    command = [sys.executable, "-m", "glm_core", "bench", "--model", str(directory), "--device", "cpu"]
    command += ["--new-tokens", str(options.new_tokens), "--repeat", "1", "--json"]
    # Room for what is measured and for no longer conversation, so that the largest batch fits any machine.
    command += ["--context-length", str(2 * max(options.prompts) + options.new_tokens)]

    def measure() -> list[Speed]:
        speeds: list[Speed] = []
        for prompts, batches in _list_cases(options):
            lists = ["--prompt-tokens", _join_numbers(prompts), "--batch", _join_numbers(batches)]
            report = json.loads(_read_output([*command, *lists]))
            for cell in report["results"]:
                prefill, decode = (cell[key] and cell[key]["median"] for key in ("prefill", "decode"))
                case = (cell["wanted_tokens"], cell["batch"])
                speeds.append(Speed(*case, prefill, decode, report["weight_bytes"]))
        return speeds

    return Engine(name, measure)


def _make_chatglm_cpp(name: str, model: Path, build: dict[str, str], options: argparse.Namespace) -> Engine:
    """Run our program over its library, which answers one request at a time."""
    prompts, new_tokens = _join_numbers(options.prompts), str(options.new_tokens)

    def measure() -> list[Speed]:
        speeds: list[Speed] = []
        for line in _read_output([build["chatglm_bench"], str(model), prompts, new_tokens, "1"]).splitlines():
            run = json.loads(line)
            prefill = run["prompt_tokens"] / run["prefill_seconds"]
            decode = (run["new_tokens"] - 1) / run["decode_seconds"]
            speeds.append(Speed(run["prompt_tokens"], 1, prefill, decode, _compute_step_bytes(options.type)))
        return speeds

    return Engine(name, measure)


def _make_llama_cpp(name: str, model: Path, build: dict[str, str], options: argparse.Namespace) -> Engine:
    """Run its own llama-batched-bench, once for the prompts alone and once for batches over one prompt."""
    threads = str(options.threads)
    command = [build["llama_batched_bench"], "-m", str(model), "-t", threads, "-tb", threads]
    command += ["-ntg", str(options.new_tokens), "-pps", "--output-format", "jsonl"]

    def measure() -> list[Speed]:
        speeds: list[Speed] = []
        for prompts, batches in _list_cases(options):
            context = max(batches) * (max(prompts) + options.new_tokens + 8)
            lists = ["-npp", _join_numbers(prompts), "-npl", _join_numbers(batches), "-c", str(context)]
            lines = [line for line in _read_output([*command, *lists]).splitlines() if line.startswith("{")]
            for run in map(json.loads, lines):
                prefill = run["speed_pp"] if run["pl"] == 1 else None
                case = (run["pp"], run["pl"])
                speeds.append(Speed(*case, prefill, run["speed_tg"], _compute_step_bytes(options.type)))
        return speeds

    return Engine(name, measure)


def _list_cases(options: argparse.Namespace) -> list[tuple[list[int], list[int]]]:
    """List every prompt length alone, and the larger batches with the first length only, to save time."""
    alone = [batch for batch in options.batches if batch == 1]
    together = [batch for batch in options.batches if batch > 1]
    cases = ((options.prompts, alone), (options.prompts[:1], together))
    return [(prompts, batches) for prompts, batches in cases if batches]


def _compute_step_bytes(kind: str) -> float:
    return (BLOCKS_WEIGHTS + HEAD_WEIGHTS) * GGML_BITS[kind] / 8


def _read_bandwidth(build: dict[str, str], threads: int) -> float:
    passes = json.loads(_read_output([build["read_bandwidth"], str(threads)]))["bytes_per_second"]
    return float(statistics.median(passes))


def _read_output(command: Sequence[str]) -> str:
    """Run a program and return its standard output; if it fails, exit with its standard error."""
    finished = subprocess.run(command, capture_output=True, text=True, check=False)
    if finished.returncode:
        raise SystemExit(f"{' '.join(command)}\nfailed ({finished.returncode}):\n{finished.stderr[-4000:]}")
    return finished.stdout


def _summarize(rows: Sequence[Row], engines: Sequence[str]) -> list[dict[str, Any]]:
    """Take medians over the rounds, also of each round's ratio of the first engine to this one."""
    found: list[dict[str, Any]] = []
    cases = sorted({(row.prompt_tokens, row.batch) for row in rows}, key=lambda case: (case[1], case[0]))
    for case in cases:
        by_engine = {
            engine: {
                row.round: row
                for row in rows
                if (row.engine, row.prompt_tokens, row.batch) == (engine, *case)
            }
            for engine in engines
        }
        ours = by_engine[engines[0]]
        for engine, theirs in by_engine.items():
            if not theirs:
                continue
            entry: dict[str, Any] = {"engine": engine, "prompt_tokens": case[0], "batch": case[1]}
            for key in ("prefill", "decode"):
                entry[key] = _compute_median(getattr(row, key) for row in theirs.values())
                ratios = (_compute_ratio(ours.get(number), row, key) for number, row in theirs.items())
                entry[f"{key}_ratio"] = _compute_median(ratios)
            entry["bandwidth_share"] = _compute_median(row.bandwidth_share for row in theirs.values())
            found.append(entry)
    return found


def _compute_ratio(ours: Row | None, theirs: Row, key: str) -> float | None:
    mine, other = (getattr(row, key, None) for row in (ours, theirs))
    return mine / other if mine and other else None


def _compute_median(values: Any) -> float | None:
    known = [value for value in values if value is not None]
    return statistics.median(known) if known else None


def _report(result: dict[str, Any]) -> str:
    peers = result["peers"]
    first = result["summary"][0]["engine"] if result["summary"] else "?"
    speeds = [note[when] / 1e9 for note in result["bandwidth"] for when in ("before", "after")]
    busiest = max(note["busy_cores"] for note in result["bandwidth"])
    rows = [
        (
            entry["engine"],
            entry["prompt_tokens"],
            entry["batch"],
            _format_number(entry["prefill"], 1),
            _format_number(entry["prefill_ratio"], 2),
            _format_number(entry["decode"], 2),
            _format_number(entry["decode_ratio"], 2),
            "-" if entry["bandwidth_share"] is None else f"{entry['bandwidth_share']:.0%}",
        )
        for entry in result["summary"]
    ]
    headings = (
        "Engine",
        "Prompt",
        "Batch",
        "Prefill tokens/s",
        "ratio",
        "Decode tokens/s",
        "ratio",
        "Bandwidth",
    )
    return "\n".join(
        [
            format_machine(result["machine"]),
            f"{result['machine']['threads']} threads; chatglm-cpp {peers['chatglm_cpp']}, llama-cpp-python",
            f"{peers['llama_cpp_python']}, built with {peers['compiler']}.",
            f"{result['rounds']} rounds of {result['new_tokens']} new tokens; medians. Ratio: speed of",
            f"{first} by that of the row's engine, in the same round. Read bandwidth",
            f"{min(speeds):.1f}-{max(speeds):.1f} GB/s; other programs used up to {busiest} cores before.",
            "",
            format_table(headings, rows),
        ]
    )


def _format_number(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:,.{digits}f}"


def _join_numbers(numbers: Sequence[int]) -> str:
    return ",".join(map(str, numbers))


if __name__ == "__main__":
    main()
