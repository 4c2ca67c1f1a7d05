"""Files written tensor by tensor are what the safetensors library reads, or are not there."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from glm_runtime_torch.checkpoints.writer import SafetensorsWriter, TensorEntry, write_tensors
from safetensors import safe_open
from safetensors.torch import load_file

TENSORS = {
    "bytes": torch.arange(15, dtype=torch.int8).view(3, 5),
    "half": torch.randn(7, 3).half(),
    "brain": torch.randn(4).bfloat16(),
    "float": torch.randn(2, 2, 2),
    "scalar": torch.tensor(3, dtype=torch.int64),
    "empty": torch.zeros(0, 4),
}
ENTRIES = [TensorEntry(name, value.dtype, tuple(value.shape)) for name, value in TENSORS.items()]


def write(path: Path, *names: str) -> None:
    with SafetensorsWriter(path, ENTRIES) as writer:
        for name in names:
            value = TENSORS[name]
            writer.write(name, value.split(2) if value.dim() else [value])


@pytest.mark.parametrize("backwards", [False, True])
def test_the_library_reads_what_was_written_in_any_order(tmp_path: Path, backwards: bool) -> None:
    """Every dtype and shape comes back equal, pieces and order of writing notwithstanding."""
    path = tmp_path / "x.safetensors"
    write(path, *(reversed(TENSORS) if backwards else TENSORS))
    loaded = load_file(path)
    assert loaded.keys() == TENSORS.keys()
    assert all(torch.equal(loaded[name], value) for name, value in TENSORS.items())
    assert all(loaded[name].dtype == value.dtype for name, value in TENSORS.items())
    with safe_open(path, framework="pt") as file:
        assert file.metadata() == {"format": "pt"}  # transformers asks for it
    assert [entry.name for entry in tmp_path.iterdir()] == ["x.safetensors"]


def test_nothing_is_left_after_an_error(tmp_path: Path) -> None:
    """Whatever goes wrong in between, neither the file nor its unfinished form stays."""

    def pieces() -> Iterator[torch.Tensor]:
        yield TENSORS["half"][:1]
        raise OSError(errno.ENOSPC, "no space")

    with pytest.raises(OSError, match="no space"):
        with SafetensorsWriter(tmp_path / "x", ENTRIES) as writer:
            writer.write("half", pieces())
    assert list(tmp_path.iterdir()) == []


def test_a_forgotten_or_wrong_tensor_is_our_own_bug(tmp_path: Path) -> None:
    """A file never passes for complete with a tensor missing, short or of another dtype."""
    with pytest.raises(AssertionError, match="was not written"):
        write(tmp_path / "x", "bytes", "half")
    with pytest.raises(AssertionError, match="half: 6 bytes instead of 42"):
        with SafetensorsWriter(tmp_path / "x", ENTRIES) as writer:
            writer.write("half", [TENSORS["half"][:1]])
    with pytest.raises(AssertionError, match=r"half: torch\.float32 instead of torch\.float16"):
        with SafetensorsWriter(tmp_path / "x", ENTRIES) as writer:
            writer.write("half", [TENSORS["half"].float()])
    assert list(tmp_path.iterdir()) == []


def test_tensors_in_memory_are_written_by_one_call(tmp_path: Path) -> None:
    """Every dtype and shape comes back equal; a gradient or a strided view changes nothing."""
    tensors = {**TENSORS, "trained": torch.ones(2, 3, requires_grad=True), "view": torch.arange(12)[::3]}
    write_tensors(tmp_path / "x.safetensors", tensors)
    loaded = load_file(tmp_path / "x.safetensors")
    assert loaded.keys() == tensors.keys()
    assert all(torch.equal(loaded[name], value) for name, value in tensors.items())
