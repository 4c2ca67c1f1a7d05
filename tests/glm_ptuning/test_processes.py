"""Several processes on one job, and launchers that start only one."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import pytest
import torch
from child_process import run
from glm_ptuning._processes import choose_device, explain_launcher, read_rank_and_size
from safetensors.torch import load_file
from tiny_models import tiny_checkpoint
from tiny_training import write_rows

from glm_core import ConfigError

# One process adds up four passes in their order, two add up two each and then the sums.
TOLERANCE = 1e-4


def run_job(launcher: list[str], folder: Path, name: str, accumulation: int, **environ: str) -> Path:
    """Train six steps of four passes in all, and return the output directory."""
    out = folder / name
    done = run(
        *launcher,
        *("-m", "glm_core", "train", "ptuning", "--model", str(folder / "model"), "--device", "cpu"),
        *("--dtype", "float32", "--train-file", str(folder / "rows.json"), "--max-steps", "6"),
        *("--prompt-column", "content", "--response-column", "summary", "--pre-seq-len", "4"),
        *("--learning-rate", "0.05", "--logging-steps", "1", "--save-steps", "3"),
        *("--per-device-train-batch-size", "2", "--set", "report_to=none", "--output-dir", str(out)),
        *("--gradient-accumulation-steps", str(accumulation)),
        *("--evaluation-strategy", "epoch", "--validation-file", str(folder / "rows.json")),
        environment={**os.environ, "OMP_NUM_THREADS": "1", **environ},
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip().splitlines()[-1] == str(out / "checkpoint-6"), done.stdout
    assert done.stdout.count("checkpoint-6") == 1
    return out


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A model and rows to learn."""
    tiny_checkpoint(tmp_path / "model")
    write_rows(tmp_path / "rows.json")
    return tmp_path


def check_equal(one: Path, two: Path) -> None:
    """Adapter and log agree within float noise."""
    weights = [load_file(out / "checkpoint-6" / "model.safetensors") for out in (one, two)]
    for name, value in weights[0].items():
        torch.testing.assert_close(weights[1][name], value, rtol=0, atol=TOLERANCE)
    logs = [json.loads((out / "trainer_state.json").read_text())["log_history"] for out in (one, two)]
    assert len(logs[0]) == len(logs[1]) >= 7
    for first, second in zip(*logs, strict=True):
        assert second == pytest.approx(first, abs=TOLERANCE)


def test_two_processes_equal_one_with_accumulation(folder: Path) -> None:
    """Under torchrun two processes of two passes give what one process of four gives; one of them speaks."""
    one = run_job([sys.executable], folder, "one", 4)
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    check_equal(one, run_job(torchrun, folder, "two", 2))


def test_a_job_may_change_its_number_of_processes(folder: Path) -> None:
    """Both are the same job: what two processes have finished, one finds finished."""
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    out = run_job(torchrun, folder, "out", 2)
    before = (out / "checkpoint-6" / "model.safetensors").read_bytes()
    assert run_job([sys.executable], folder, "out", 4) == out
    assert (out / "checkpoint-6" / "model.safetensors").read_bytes() == before


def test_a_launcher_that_starts_one_process_is_told() -> None:
    """On CPUs accelerate launch starts one process however many are asked for; torchrun starts them all."""
    assert "accelerate launch has started one process" in explain_launcher({"ACCELERATE_USE_CPU": "true"})
    assert explain_launcher({"ACCELERATE_USE_CPU": "true", "WORLD_SIZE": "2", "RANK": "0"}) == ""
    assert "each trains by itself" in explain_launcher({"OMPI_COMM_WORLD_SIZE": "2"})
    assert explain_launcher({}) == ""


def test_what_the_launcher_says_is_read() -> None:
    """Rank and size come from the environment."""
    assert read_rank_and_size({}) == (0, 1)
    assert read_rank_and_size({"RANK": "1", "WORLD_SIZE": "2"}) == (1, 2)


@pytest.mark.parametrize(
    ("environ", "words"),
    [
        ({"RANK": "x"}, "RANK 'x'.*integer"),
        ({"WORLD_SIZE": ""}, "WORLD_SIZE ''.*integer"),
        ({"RANK": "2", "WORLD_SIZE": "2"}, "RANK 2.*WORLD_SIZE 2"),
        ({"RANK": "-1", "WORLD_SIZE": "2"}, "RANK -1.*WORLD_SIZE 2"),
        ({"WORLD_SIZE": "0"}, "RANK 0.*WORLD_SIZE 0"),
        ({"LOCAL_RANK": "x"}, "LOCAL_RANK 'x'.*integer"),
    ],
)
def test_launchers_that_contradict_themselves_are_refused(environ: dict[str, str], words: str) -> None:
    """Each variable is named with its value, and what to do."""
    with pytest.raises(ConfigError, match=f"{words}.*torchrun"):
        choose_device(("cpu",), environ)


def test_processes_on_the_cpu_share_it() -> None:
    """Only GPUs are handed out one to each process."""
    assert choose_device(("cpu",), {"LOCAL_RANK": "1", "WORLD_SIZE": "2"}) == torch.device("cpu")
    assert choose_device(("cuda:1",), {}) == torch.device("cuda", 1)
