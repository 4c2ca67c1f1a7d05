"""Averages the weights of two checkpoints of one training run: steadier than either.

python plugins/glm_model_demo/training/average.py EARLIER LATER OUTPUT [--later-share 0.6]
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

from safetensors.torch import load_file, save_file

WEIGHTS = "model.safetensors"


def average(earlier: Path, later: Path, output: Path, later_share: float) -> None:
    """Write ``later``'s directory to ``output`` with the mean of both weights."""
    shutil.copytree(later, output)
    first, second = load_file(earlier / WEIGHTS), load_file(later / WEIGHTS)
    mean = {
        name: (first[name].float() * (1 - later_share) + tensor.float() * later_share).half()
        for name, tensor in second.items()
    }
    save_file(mean, output / WEIGHTS, metadata={"format": "pt"})
    (output / WEIGHTS).chmod(0o644)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("earlier", type=Path)
    parser.add_argument("later", type=Path)
    parser.add_argument("output", type=Path, help="directory to create")
    parser.add_argument("--later-share", type=float, default=0.6)
    arguments = parser.parse_args()
    average(arguments.earlier, arguments.later, arguments.output, arguments.later_share)
