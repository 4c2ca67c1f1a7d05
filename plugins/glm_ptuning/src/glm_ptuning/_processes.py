"""One job in several processes, as ``torchrun`` and ``accelerate launch`` start them."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, distributed as dist

from glm_core.errors import ConfigError, DeviceError, GlmError

LAUNCH = "torchrun --standalone --nproc_per_node N -m glm_core train ptuning ..."


class Processes:
    """The processes of a job; most often this one alone.

    Args:
        device: where this process trains.
        environ: what the launcher said.

    Attributes:
        rank: number of this process, from 0.
        size: how many there are.
    """

    def __init__(self, device: torch.device, environ: Mapping[str, str] = os.environ) -> None:
        self.rank, self.size = read_rank_and_size(environ)
        self._own_group = self.size > 1 and not dist.is_initialized()
        if self._own_group:
            dist.init_process_group("nccl" if device.type == "cuda" else "gloo")

    @property
    def is_first(self) -> bool:
        """Return whether this is the process that writes and reports."""
        return self.rank == 0

    def sum(self, tensors: Iterable[Tensor]) -> None:
        """Replace each tensor by its sum over all processes.

        Raises:
            GlmError: another process has stopped.
        """
        if self.size > 1:
            for tensor in tensors:
                self._run_collective(dist.all_reduce, tensor)

    def wait(self) -> None:
        """Wait until all processes have called this."""
        if self.size > 1:
            self._run_collective(dist.barrier)

    def close(self) -> None:
        """Leave the group."""
        if self._own_group and dist.is_initialized():
            dist.destroy_process_group()

    @staticmethod
    def _run_collective(function: Any, *arguments: Any) -> None:
        try:
            function(*arguments)
        except RuntimeError as error:
            raise GlmError("another process of this job has stopped; its own message says why") from error


def read_rank_and_size(environ: Mapping[str, str] = os.environ) -> tuple[int, int]:
    """Return the number of this process and how many there are.

    Raises:
        ConfigError: the launcher's variables are no numbers, or contradict each other.
    """
    rank, size = (_read_integer(environ, name, default) for name, default in (("RANK", 0), ("WORLD_SIZE", 1)))
    if not 0 <= rank < size:
        raise ConfigError(
            f"RANK {rank} is not the number of one of WORLD_SIZE {size} processes; unset both, or start with "
            "torchrun"
        )
    return rank, size


def _read_integer(environ: Mapping[str, str], name: str, default: int) -> int:
    try:
        return int(environ.get(name, default))
    except ValueError as error:
        raise ConfigError(
            f"{name} {environ[name][:40]!r} must be an integer; unset it, or start with torchrun"
        ) from error


def choose_device(devices: Iterable[str], environ: Mapping[str, str] = os.environ) -> torch.device:
    """Return the device of this process: the job's, or one of its own if several train on GPUs.

    Raises:
        ConfigError: a variable of the launcher is no number.
        DeviceError: there are fewer GPUs than processes.
    """
    device = torch.device(next(iter(devices)))
    local_rank, (_, size) = _read_integer(environ, "LOCAL_RANK", 0), read_rank_and_size(environ)
    if size == 1 or device.type != "cuda":
        return device
    if not 0 <= local_rank < torch.cuda.device_count():
        raise DeviceError(
            f"process {local_rank} has no GPU: this machine has {torch.cuda.device_count()}; "
            "start as many processes as there are GPUs"
        )
    torch.cuda.set_device(local_rank)
    return torch.device("cuda", local_rank)


def explain_launcher(environ: Mapping[str, str] = os.environ) -> str:
    """Return advice for a user whose launcher started one process where several may be meant; or empty."""
    launched = any(name.startswith("ACCELERATE_") for name in environ)
    if launched and "WORLD_SIZE" not in environ:
        return (
            "accelerate launch has started one process (on CPUs it starts no more without MPI); "
            f"for several: {LAUNCH}"
        )
    workers = {environ.get(name, "1") for name in ("OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "SLURM_NTASKS")}
    if "WORLD_SIZE" not in environ and workers != {"1"}:
        return f"several tasks were started, but each trains by itself; for one job in all: {LAUNCH}"
    return ""
