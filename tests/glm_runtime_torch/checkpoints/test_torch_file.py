"""A file of ``torch.save`` gives its tensors, and no more than it holds, whatever it claims."""

from __future__ import annotations

import pickle
import struct
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest
import torch
from glm_runtime_torch.checkpoints import torch_file
from glm_runtime_torch.checkpoints.torch_file import TorchFile
from hypothesis import HealthCheck, given, settings, strategies as st
from torch import nn

from glm_core import CheckpointError

FORMATS = pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
DTYPES = (
    *(torch.float64, torch.float32, torch.float16, torch.bfloat16),
    *(torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.bool),
)


def save(content: Any, path: Path, *, zipped: bool) -> Path:
    """Write a file in the format of today or of before torch 1.6."""
    torch.save(content, path, _use_new_zipfile_serialization=zipped)
    return path


@FORMATS
def test_every_dtype_shape_and_stride_reads_as_torch_reads_it(zipped: bool, tmp_path: Path) -> None:
    """Views, transposed, empty, scalar and tied tensors and parameters are what ``torch.load`` gives."""
    table = torch.arange(24, dtype=torch.float32).view(4, 6)
    content: dict[str, Any] = {str(dtype): torch.arange(7).to(dtype) for dtype in DTYPES}
    content |= {"table": table, "tied": table, "view": table[1:3, ::2], "transposed": table.t()}
    content |= {"scalar": torch.tensor(3.5), "empty": torch.zeros(0, 4), "column": table[:, 2]}
    content |= {"parameter": nn.Parameter(table[:2].clone())}
    path = save(OrderedDict(content), tmp_path / "x.bin", zipped=zipped)
    expected, file = torch.load(path, weights_only=True), TorchFile(path)
    assert list(file.tensors) == list(content)
    for name, value in expected.items():
        found = file.get(name)
        assert torch.equal(found, value), name
        assert (found.dtype, found.stride()) == (value.dtype, value.stride()), name
        assert file.tensors[name].shape == tuple(value.shape), name


def test_state_dictionary_of_a_module_reads(tmp_path: Path) -> None:
    """Modules put an attribute on theirs, which is left out."""
    module = nn.Sequential(nn.Linear(3, 2), nn.LayerNorm(2))
    file = TorchFile(save(module.state_dict(), tmp_path / "x.bin", zipped=True))
    assert torch.equal(file.get("0.weight"), module.state_dict()["0.weight"])
    assert len(file.tensors) == 4


def test_tensors_of_a_zip_lie_on_the_mapped_file(tmp_path: Path) -> None:
    """Nothing is copied, so pages can be given back; what the old format misaligns is copied."""
    content = {"x": torch.arange(1000, dtype=torch.float32)}
    for zipped in (True, False):
        file = TorchFile(save(content, tmp_path / "x.bin", zipped=zipped))
        assert file.is_mapped(file.get("x")) or not zipped


class Calls:
    """Pickles to a call."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.call = function, arguments

    def __reduce__(self) -> Any:
        return self.call


@FORMATS
@pytest.mark.parametrize(
    "hostile",
    [
        Calls(bytearray, 10**10),
        Calls(torch.FloatTensor, 10**10),
        Calls(print, "hello"),
        Calls(torch.storage.UntypedStorage, 10**10),
        torch.Size([1]),
    ],
    ids=["bytearray", "tensor", "print", "storage", "size"],
)
def test_nothing_is_called_that_takes_memory_or_runs_code(
    hostile: Any, zipped: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Not only calls that torch forbids: a call may be harmless and ask for all the memory there is."""
    path = save({"x": hostile}, tmp_path / "x.bin", zipped=zipped)
    with pytest.raises(CheckpointError, match=r"x\.bin"):
        TorchFile(path)
    assert capsys.readouterr().out == ""


@FORMATS
@pytest.mark.parametrize("shape", [(10**6, 10**5), (2**20,)])
def test_one_number_seen_as_many_is_refused(shape: tuple[int, ...], zipped: bool, tmp_path: Path) -> None:
    """A stride of 0 makes a tensor of any size of one number; copying it would take that size."""
    path = save({"x": torch.zeros(1).expand(shape)}, tmp_path / "x.bin", zipped=zipped)
    with pytest.raises(CheckpointError, match=r"declares tensors of [\d,]+ bytes but has [\d,]+"):
        TorchFile(path)


def test_compressed_archive_is_refused_before_it_is_unpacked(tmp_path: Path) -> None:
    """Six gigabytes of zeros take 6 MB in a zip; torch itself never compresses."""
    save({"x": torch.zeros(10**6)}, tmp_path / "plain.bin", zipped=True)
    with (
        zipfile.ZipFile(tmp_path / "plain.bin") as plain,
        zipfile.ZipFile(tmp_path / "x.bin", "w", zipfile.ZIP_DEFLATED) as packed,
    ):
        for entry in plain.namelist():
            packed.writestr(entry, plain.read(entry))
    with pytest.raises(CheckpointError, match=r"compressed.*refused"):
        TorchFile(tmp_path / "x.bin")


def test_archive_of_too_many_files_is_refused_unlisted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Listing takes memory for each, so their number is read first."""
    monkeypatch.setattr(torch_file, "MAX_ARCHIVE_ENTRIES", 10)
    with zipfile.ZipFile(tmp_path / "x.bin", "w") as archive:
        for number in range(100):
            archive.writestr(f"a/{number}", b"")
    monkeypatch.setattr(zipfile.ZipFile, "__init__", lambda *_: pytest.fail("it was listed"))
    with pytest.raises(CheckpointError, match="archive"):
        TorchFile(tmp_path / "x.bin")


def test_storage_beyond_the_file_is_named(tmp_path: Path) -> None:
    """A table that asks for more numbers than its entry has is damaged, and the tensor is named."""
    path = save({"weight": torch.arange(250, dtype=torch.uint8)}, tmp_path / "x.bin", zipped=True)
    data = path.read_bytes()
    asked = data.replace(b"K\xfa", b"K\xff")  # in the pickle: 250 becomes 255
    with zipfile.ZipFile(path) as archive:
        names = {name: archive.read(name) for name in archive.namelist()}
    assert asked != data
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in names.items():
            archive.writestr(name, content.replace(b"K\xfa", b"K\xff") if name.endswith(".pkl") else content)
    with pytest.raises(CheckpointError, match=r"tensor 'weight' of shape \[255\]"):
        TorchFile(path)


def test_legacy_file_that_declares_gigabytes_is_cut_off(tmp_path: Path) -> None:
    """The old format allocates what its table says; ours compares it with the file first."""
    path = save({"x": torch.zeros(4)}, tmp_path / "x.bin", zipped=False)
    data = path.read_bytes()
    path.write_bytes(data[: -4 * 4 - 8] + struct.pack("<q", 10**10) + data[-4 * 4 :])
    with pytest.raises(CheckpointError, match="damaged"):
        TorchFile(path)


def test_pickle_of_another_protocol_is_refused(tmp_path: Path) -> None:
    """torch.save writes protocol 2; newer ones have operations that allocate."""
    path = tmp_path / "x.bin"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("x/data.pkl", pickle.dumps({"x": bytearray(3)}, protocol=5))
    with pytest.raises(CheckpointError, match="refused"):
        TorchFile(path)


@FORMATS
@settings(deadline=None, max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_change_of_bytes_is_read_or_refused(data: st.DataObject, zipped: bool, tmp_path: Path) -> None:
    """Whatever bytes are put in or cut off, a tensor is read or one sentence names the file."""
    content = {"a": torch.arange(12, dtype=torch.float32).view(3, 4), "b": torch.arange(5)}
    whole = save(content, tmp_path / "x.bin", zipped=zipped).read_bytes()
    start = data.draw(st.integers(0, len(whole)))
    stop = data.draw(st.integers(start, min(len(whole), start + 64)))
    changed = whole[:start] + data.draw(st.binary(max_size=64)) + whole[stop:]
    (tmp_path / "x.bin").write_bytes(changed)
    try:
        file = TorchFile(tmp_path / "x.bin")
        total = sum(file.get(name).numel() for name in file.tensors)
    except CheckpointError as error:
        total = 0
        message = str(error)
    else:
        message = "x.bin"
    assert "x.bin" in message
    assert total < 10**6
