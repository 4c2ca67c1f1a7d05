"""From which model size on does a second thread help, on an idle and on a busy machine?

    python benchmarks/threads.py

Decodes random models of growing size at batch 1 with one thread and with one per core, first on the
machine as it is, then with one other process keeping a core busy. The last line is JSON.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import statistics
import tempfile
from pathlib import Path

import torch
from glm_runtime_torch.loading import open_source
from glm_runtime_torch.model.torch_model import TorchModel
from random_checkpoint import write_checkpoint

from glm_core import ChatRequest, Message, Sampling
from glm_core.records import ModelSource

SIZES = ((4, 128), (4, 512), (4, 1024), (6, 1536), (8, 2048))


def main() -> None:
    """Measure every size with one thread and with all cores, idle and busy."""
    rows = []
    for num_layers, hidden_size in SIZES:
        with tempfile.TemporaryDirectory() as folder:
            directory = write_checkpoint(Path(folder), num_layers=num_layers, hidden_size=hidden_size)
            model = open_source(ModelSource("random", directory), "bfloat16")
            assert isinstance(model, TorchModel)
            model.materialize(torch.device("cpu"))
            model.start(torch.device("cpu"))
        row: dict[str, float] = {"weight_mb": round(model.count_weight_bytes() / 2**20, 1)}
        for state in ("idle", "busy"):
            neighbour = multiprocessing.Process(target=_keep_core_busy, daemon=True)
            if state == "busy":
                neighbour.start()
            for threads in (1, os.cpu_count() or 1):
                row[f"{state}_{threads}_threads"] = round(_measure_speed(model, threads), 1)
            if state == "busy":
                neighbour.kill()
        model.close()
        rows.append(row)
        print("  ".join(f"{name} {value:>7}" for name, value in row.items()), flush=True)
    print(json.dumps(rows))


def _measure_speed(model: TorchModel, threads: int, runs: int = 3) -> float:
    torch.set_num_threads(threads)
    request = ChatRequest((Message("user", "你好"),), Sampling(do_sample=False, max_new_tokens=24))
    speeds = []
    for _ in range(runs + 1):
        *_, last = model.stream(request)
        assert last.usage is not None
        speeds.append(last.usage.tokens_per_second)
    return statistics.median(speeds[1:])  # the first is warm-up


def _keep_core_busy() -> None:
    while True:
        pass


if __name__ == "__main__":
    main()
