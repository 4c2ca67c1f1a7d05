"""How much memory and time does ChatGLM-6B's size take from a cold start, quantised while loading or before?

    python benchmarks/load_memory.py [--models /tmp/glm-models] [--forms int4] [--runs 3] [--report FILE.md]

Writes a random float16 checkpoint of ChatGLM-6B's size (12.3 GB) and its pre-quantised form, where they are
not there yet, and loads each in a fresh process: the first with ``--quantize``, the second as it is.
Reported per process, by the operating system's own accounting (``/proc/self/status``):

- the peak of resident memory (VmHWM), and what was resident at the end, split into the process's own
  (RssAnon and RssShmem) and pages of files (RssFile), which the system takes back when it needs them;
- the most of its own that was seen, sampled every 20 ms until the first token;
- seconds until the model is loaded, and from the start of the process to the first token.

``--cold`` drops the files from the page cache before each run. The last line is JSON. Needs 16 GB of disk.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

from reporting import count_busy_cores, describe_machine, format_machine, format_table, write_report

HERE = Path(__file__).resolve().parent
STATUS = Path("/proc/self/status")
FIELDS = ("VmHWM", "RssAnon", "RssFile", "RssShmem")
SAMPLE_SECONDS = 0.02
DISK_BYTES = {"float16": 12.4e9, "int8": 6.3e9, "int4": 3.2e9}


def main() -> None:
    """Prepare, load each form in turn in fresh processes, report."""
    options = _parse_options()
    if options.load:
        print(json.dumps(_load(options.load, options.quantize, options.context_length)))
        return
    forms = options.forms.split(",")
    directories = {form: options.models / form for form in ("float16", *forms)}
    _prepare(directories, options)
    cases = [("float16", "none")] if options.float16 else []
    cases += [case for form in forms for case in (("float16", form), (form, "none"))]
    runs: list[dict[str, Any]] = []
    for number in range(1, options.runs + 1):
        for stored, quantize in cases:
            if options.cold:
                _forget(directories[stored])
            busy = count_busy_cores()
            found = _load_in_fresh_process(directories[stored], quantize, options.context_length)
            runs.append({"run": number, "stored": stored, "quantize": quantize, "busy_cores": busy} | found)
            print(f"run {number}: {stored}, --quantize {quantize}: {found}", file=sys.stderr)
    result = {"machine": describe_machine(), "cold": options.cold, "summary": _summarize(runs), "runs": runs}
    write_report(options.report, _report(result), result)


def _parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    models = Path(tempfile.gettempdir()) / "glm-models"
    parser.add_argument("--models", type=Path, default=models, help="where models are written")
    parser.add_argument("--forms", default="int4", help="schemes, with commas: int4,int8")
    parser.add_argument("--layers", type=int, default=28)
    parser.add_argument("--hidden", type=int, default=4096)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--context-length", type=int, default=0, help="0 = the model's own")
    parser.add_argument("--float16", action="store_true", help="also load without quantising")
    parser.add_argument(
        "--cold", action="store_true", help="drop the files from the page cache before each run"
    )
    parser.add_argument("--report", type=Path, help="write this file, and the same with .json")
    parser.add_argument("--load", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--quantize", default="none", help=argparse.SUPPRESS)
    return parser.parse_args()


def _prepare(directories: dict[str, Path], options: argparse.Namespace) -> None:
    options.models.mkdir(parents=True, exist_ok=True)
    missing = [form for form, directory in directories.items() if not (directory / "config.json").is_file()]
    whole = options.layers == 28 and options.hidden == 4096
    needed = sum(DISK_BYTES.get(form.partition("-")[0], 0.0) for form in missing) if whole else 0.0
    free = shutil.disk_usage(options.models).free
    print(
        f"disk: {needed / 1e9:.1f} GB needed, {free / 1e9:.1f} GB free at {options.models}", file=sys.stderr
    )
    if needed > free:
        raise SystemExit("not enough; name another place with --models")
    for form in missing:
        command = [sys.executable, str(HERE / "random_checkpoint.py"), str(directories[form]), "--form", form]
        command += ["--layers", str(options.layers), "--hidden", str(options.hidden)]
        subprocess.run(command, check=True, stdout=sys.stderr)


def _forget(directory: Path) -> None:
    """Take a directory's files out of the page cache."""
    for path in directory.iterdir():
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fdatasync(descriptor)  # what is not written yet cannot be dropped
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        finally:
            os.close(descriptor)


def _load_in_fresh_process(directory: Path, quantize: str, context_length: int) -> dict[str, Any]:
    command = [sys.executable, __file__, "--load", str(directory), "--quantize", quantize]
    command += ["--context-length", str(context_length)]
    started = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    first_token = 0.0
    last = ""
    for line in process.stdout:
        if line == "first token\n":
            first_token = time.perf_counter() - started
        else:
            last = line
    if process.wait():
        raise SystemExit(f"{' '.join(command)} failed")
    found: dict[str, Any] = json.loads(last)
    return found | {"cold_start_seconds": round(first_token, 3)}


def _load(directory: Path, quantize: str, context_length: int) -> dict[str, Any]:
    """Load, answer with one token, and return what that took; run in the fresh process."""
    sampler = _Sampler()
    sampler.start()
    import glm_core  # here, so that importing it is sampled and timed as well

    started = time.perf_counter()
    with glm_core.load(
        directory, device="cpu", quantize=quantize, context_length=context_length or None
    ) as model:
        loaded = time.perf_counter()
        after_load = _read_resident_bytes()
        request = glm_core.ChatRequest(
            (glm_core.Message("user", "你好"),),
            glm_core.Sampling(max_new_tokens=2, do_sample=False, ignore_eos=True),
        )
        with model.stream(request) as deltas:
            next(delta for delta in deltas if delta.token_ids)
            answered = time.perf_counter()
            print("first token", flush=True)
        sampler.stop()
        return {
            "load_seconds": round(loaded - started, 3),
            "first_token_after_load_seconds": round(answered - loaded, 3),
            "weight_bytes": model.info.weight_bytes,
            "kv_bytes": model.load.kv_bytes if model.load else None,
            "peak_bytes": _read_resident_bytes()["VmHWM"],
            "peak_own_bytes": sampler.highest,
            "loaded_own_bytes": _count_own_bytes(after_load),
            "loaded_file_bytes": after_load["RssFile"],
        }


class _Sampler(threading.Thread):
    """Looks every 20 ms at what the process has of its own; the system keeps no peak of that alone."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.highest = 0
        self._stopped = threading.Event()

    def run(self) -> None:
        """Take samples until `stop`."""
        while not self._stopped.wait(SAMPLE_SECONDS):
            self.highest = max(self.highest, _count_own_bytes(_read_resident_bytes()))

    def stop(self) -> None:
        """End after the current look."""
        self._stopped.set()
        self.join()


def _read_resident_bytes() -> dict[str, int]:
    """Read the operating system's account of this process, in bytes."""
    lines = STATUS.read_text("ascii").splitlines()
    values = dict(line.split(":", 1) for line in lines)
    return {field: int(values[field].split()[0]) * 1024 for field in FIELDS}


def _count_own_bytes(resident: dict[str, int]) -> int:
    """Count bytes that are not pages of a file; shared anonymous mappings are the process's own too."""
    return resident["RssAnon"] + resident["RssShmem"]


def _summarize(runs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    cases = list(dict.fromkeys((run["stored"], run["quantize"]) for run in runs))
    numbers = [key for key, value in runs[0].items() if isinstance(value, (int, float)) and key != "run"]
    return [
        {"stored": stored, "quantize": quantize}
        | {
            key: statistics.median(
                run[key] for run in runs if (run["stored"], run["quantize"]) == (stored, quantize)
            )
            for key in numbers
        }
        for stored, quantize in cases
    ]


def _report(result: dict[str, Any]) -> str:
    rows = [
        (
            entry["stored"],
            entry["quantize"],
            *(
                f"{entry[key] / 1e9:.2f} GB"
                for key in (
                    *("weight_bytes", "peak_bytes", "peak_own_bytes"),
                    *("loaded_own_bytes", "loaded_file_bytes"),
                )
            ),
            f"{entry['load_seconds']:.1f} s",
            f"{entry['cold_start_seconds']:.1f} s",
        )
        for entry in result["summary"]
    ]
    busiest = max(run["busy_cores"] for run in result["runs"])
    headings = (
        *("Stored as", "--quantize", "Weights", "Peak resident", "Peak own"),
        *("Loaded, own", "Loaded, of files", "Load", "Start to first token"),
    )
    cache = (
        "dropped from the page cache before each run" if result["cold"] else "in the page cache as they were"
    )
    return "\n".join(
        [
            format_machine(result["machine"]),
            f"Medians of {len(result['runs']) // len(result['summary'])} fresh processes; files {cache}.",
            f"Other programs used up to {busiest} cores before a run.",
            "",
            format_table(headings, rows),
        ]
    )


if __name__ == "__main__":
    main()
