"""Run as a program: load a checkpoint like ``glm`` does and print what memory it took, as JSON.

python peak_memory.py DIRECTORY DTYPE [int8|int4]
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import psutil
import torch
from glm_backend_cpu._placement import place_on_cpu
from glm_runtime_torch.backends import quantize_model
from glm_runtime_torch.loading import open_source
from glm_runtime_torch.model.torch_model import TorchModel

from glm_core.records import ModelSource, Placement, QuantizationScheme


def peak_bytes() -> int:
    """Highest resident memory of this process so far, file mappings included.

    Not ``ru_maxrss``, which a new program inherits from the process that started it.
    """
    status = Path("/proc/self/status").read_text("utf-8")
    return next(int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("VmHWM"))


def library_bytes() -> int:
    """Resident memory of shared libraries' own files.

    Their pages come in when their code first runs, or not at once where the system had dropped them: up to
    70 MiB between two runs, none of which the checkpoint takes.
    """
    total, is_library = 0, False
    for line in Path("/proc/self/smaps").read_text("utf-8").splitlines():
        if "-" in line.partition(" ")[0]:  # the head of a mapping; facts about it follow
            is_library = ".so" in line
        elif is_library and line.startswith("Rss:"):
            total += int(line.split()[1]) * 1024
    return total


def main() -> None:
    """Load, and report baseline, peak and the size of what was loaded."""
    directory, dtype = Path(sys.argv[1]), sys.argv[2]
    torch.ones(64, 64) @ torch.ones(64, 64)  # what a first operation costs is not the checkpoint's
    libraries, before = library_bytes(), psutil.Process().memory_info().rss
    model = open_source(ModelSource("measured", directory), dtype)
    assert isinstance(model, TorchModel)
    if len(sys.argv) > 3:
        quantize_model(model, QuantizationScheme(int(sys.argv[3].removeprefix("int"))))
    place_on_cpu(model, Placement(("cpu",)))
    loaded = sum(value.numel() * value.element_size() for value in model.network.parameters())
    print(
        json.dumps(
            {
                "before": before + library_bytes() - libraries,
                "peak": peak_bytes(),
                "after": psutil.Process().memory_info().rss,
                "loaded": loaded,
                "largest": max(value.numel() * 2 for value in model.network.parameters()),
            }
        )
    )


if __name__ == "__main__":
    main()
