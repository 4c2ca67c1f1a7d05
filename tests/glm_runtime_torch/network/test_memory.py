"""Loading never holds two copies of the weights, measured by the operating system."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from glm_runtime_torch.checkpoints.reader import Checkpoint
from glm_runtime_torch.network.memory import find_mapping, release_pages
from safetensors.torch import load_file, save_file
from tiny_models import tiny_checkpoint

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc/self/status")

KIB = 2**10
PROGRAM = Path(__file__).parents[2] / "support" / "peak_memory.py"
# What loading allocates besides weights: first operations, their code, and temporaries of a few megabytes.
SLACK_BYTES = 100 * 2**20


def count_resident(path: Path) -> int:
    """Bytes of a file's mappings in this process that are in memory."""
    total, is_wanted = 0, False
    for line in Path("/proc/self/smaps").read_text("utf-8").splitlines():
        if "-" in line.partition(" ")[0]:
            is_wanted = line.endswith(str(path))
        elif is_wanted and line.startswith("Rss:"):
            total += int(line.split()[1]) * KIB
    return total


@pytest.mark.parametrize("front", [1, 3_000, 20_001, 40_000, 61_003])
def test_nothing_of_a_file_stays_in_memory(front: int, tmp_path: Path) -> None:
    """However tensors lie in the file, what is read of them, and what the system brought in with it, goes."""
    written = {"front": torch.ones(front, dtype=torch.uint8)}
    written |= {f"matrix{number}": torch.randn(1_000, 1_111) for number in range(8)}
    written |= {f"small{number}": torch.randn(3) for number in range(8)}
    save_file(written, tmp_path / "model.safetensors")
    checkpoint = Checkpoint(tmp_path)
    for name, value in written.items():
        assert torch.equal(checkpoint.read(name, dtype=value.dtype, device=torch.device("cpu")), value)
    # The header's page is read when the file is opened, and again with the first tensor.
    assert count_resident(tmp_path / "model.safetensors") <= 64 * KIB


def test_only_pages_of_files_are_given_back() -> None:
    """Ordinary memory lies on no file; to give it back would erase what is there."""
    tensor = torch.ones(1_000_000)
    assert find_mapping(tensor) == (0, 0)
    release_pages(tensor, find_mapping(tensor))
    assert bool((tensor == 1).all())


def measure(*arguments: str) -> dict[str, int]:
    done = subprocess.run(
        [sys.executable, str(PROGRAM), *arguments], capture_output=True, text=True, timeout=280, check=True
    )
    return json.loads(done.stdout.splitlines()[-1])


@pytest.fixture(scope="module")
def gigabyte(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random checkpoint with 1 GB of float16 weights in safetensors."""
    return tiny_checkpoint(tmp_path_factory.mktemp("large") / "safetensors", num_layers=10, hidden_size=2048)


@pytest.fixture(scope="module")
def gigabyte_bin(gigabyte: Path) -> Path:
    """The same weights as one ``pytorch_model.bin``."""
    target = gigabyte.parent / "bin"
    target.mkdir()
    for path in gigabyte.iterdir():
        if path.suffix != ".safetensors":
            (target / path.name).write_bytes(path.read_bytes())
    torch.save(load_file(gigabyte / "model.safetensors"), target / "pytorch_model.bin")
    return target


@pytest.mark.parametrize("form", ["gigabyte", "gigabyte_bin"])
@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_a_gigabyte_loads_in_at_most_1_15_times_its_size(
    form: str, dtype: str, request: pytest.FixtureRequest
) -> None:
    """Peak resident memory of loading is at most 1.15 times the loaded weights, from both file forms."""
    measured = measure(str(request.getfixturevalue(form)), dtype)
    assert measured["loaded"] > 1e9
    assert measured["peak"] - measured["before"] <= 1.15 * measured["loaded"]


@pytest.mark.parametrize("scheme", ["int8", "int4"])
def test_quantising_while_loading_needs_the_result_only(gigabyte: Path, scheme: str) -> None:
    """With --quantize, peak memory is the quantised model and small temporaries."""
    measured = measure(str(gigabyte), "bfloat16", scheme)
    assert measured["peak"] - measured["before"] <= measured["loaded"] + SLACK_BYTES


def test_a_tiny_checkpoint_leaves_no_peak_behind(tmp_path: Path) -> None:
    """For a tiny model the process as a whole peaks at no more than 1.15 times what it ends with."""
    measured = measure(str(tiny_checkpoint(tmp_path / "model")), "float32")
    assert measured["peak"] <= 1.15 * measured["after"]
