"""What the reports of several benchmarks need: facts of the machine, and a table."""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any


def describe_machine() -> dict[str, Any]:
    """Return processor, memory and versions, as a report names them."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    name = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {
        "processor": name or platform.processor(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_gib": round(memory / 2**30, 1),
        "system": platform.platform(terse=True),
        "python": platform.python_version(),
        "torch": importlib.metadata.version("torch"),
    }


def format_machine(facts: dict[str, Any]) -> str:
    """Format these facts as the first line of a report."""
    return (
        f"{facts['processor']}, {facts['cores']} cores, {facts['memory_gib']} GiB, {facts['system']}; "
        f"Python {facts['python']}, torch {facts['torch']}."
    )


def count_busy_cores(seconds: float = 1.0) -> float:
    """Count how many cores all programs together keep busy now; near 0 on an idle machine."""

    def read_times() -> tuple[int, int]:
        fields = [int(field) for field in Path("/proc/stat").read_text().splitlines()[0].split()[1:9]]
        return sum(fields), fields[3] + fields[4]  # all, and idle or waiting for a disk

    before = read_times()
    time.sleep(seconds)
    total, idle = (after - earlier for after, earlier in zip(read_times(), before, strict=True))
    return round((1 - idle / max(1, total)) * (os.cpu_count() or 1), 2)


def format_table(headings: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Format a table in Markdown."""
    lines = [headings, ["---"] * len(headings), *rows]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines)


def write_report(path: Path | None, text: str, result: dict[str, Any]) -> None:
    """Print a report and its JSON in one line; with a path, also write it there and the JSON beside it."""
    print(text)
    if path is not None:
        path.write_text(text + "\n", "utf-8")
        path.with_suffix(".json").write_text(json.dumps(result, indent=2) + "\n", "utf-8")
    print(json.dumps(result))
