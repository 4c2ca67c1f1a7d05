"""Every published file form reads alike, and every broken one is named before memory is spent."""

from __future__ import annotations

import json
import pickle
import shutil
import zipfile
from pathlib import Path

import pytest
import torch
from glm_runtime_torch.checkpoints.reader import Checkpoint
from glm_runtime_torch.checkpoints.requirements import require_parameters
from goldens import DATA
from key_words import containing
from safetensors.torch import save_file

from glm_core import CheckpointError

CPU = torch.device("cpu")
FORMS = ("fp16-bin", "fp16-bin-sharded", "fp16-safetensors", "fp32-safetensors")
V1 = DATA / "chatglm-6b" / "ckpt"


def copy_of(form: str, target: Path) -> Path:
    shutil.copytree(V1 / form, target)
    return target


@pytest.mark.parametrize("form", FORMS)
def test_every_form_holds_the_same_weights(form: str) -> None:
    """Single, sharded, safetensors, float16 and float32 files give equal float32 tensors."""
    reference, checkpoint = Checkpoint(V1 / "fp16-safetensors"), Checkpoint(V1 / form)
    names = [name for name in reference if not name.endswith("inv_freq")]
    assert len(names) == 40
    for name in names:
        assert checkpoint.get_facts(name).shape == reference.get_facts(name).shape
        assert torch.equal(
            checkpoint.read(name, dtype=torch.float32, device=CPU),
            reference.read(name, dtype=torch.float32, device=CPU),
        )


def test_reading_twice_gives_the_same_tensor() -> None:
    """Pages that were given back to the kernel are read from the file again."""
    checkpoint = Checkpoint(V1 / "fp16-bin")
    name = "transformer.word_embeddings.weight"
    first = checkpoint.read(name, dtype=torch.float16, device=CPU)
    assert torch.equal(first, checkpoint.read(name, dtype=torch.float16, device=CPU))
    assert first.abs().sum() > 0


def test_large_tensors_are_copied_in_pieces(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A tensor larger than the chunk is complete, whatever the chunk's size."""
    monkeypatch.setattr("glm_runtime_torch.checkpoints.reader.PIECE_BYTES", 100)
    tensor = torch.randn(37, 13)
    save_file({"x": tensor}, tmp_path / "model.safetensors")
    assert torch.equal(Checkpoint(tmp_path).read("x", dtype=torch.float32, device=CPU), tensor)


def test_legacy_torch_file_without_zip_still_reads(tmp_path: Path) -> None:
    """Files written in the format before torch 1.6 read, though they cannot be mapped."""
    tensor = torch.randn(3, 4)
    torch.save({"x": tensor}, tmp_path / "pytorch_model.bin", _use_new_zipfile_serialization=False)
    assert torch.equal(Checkpoint(tmp_path).read("x", dtype=torch.float32, device=CPU), tensor)


def test_directory_without_weights_lists_what_is_there(tmp_path: Path) -> None:
    """No known file name: the message says what was expected and what was found."""
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(
        CheckpointError, match=containing("no weights", "expected model.safetensors", "found config.json")
    ):
        Checkpoint(tmp_path)


@pytest.mark.parametrize("form", FORMS)
def test_truncated_file_is_named(form: str, tmp_path: Path) -> None:
    """A file cut off in the middle is called damaged, with its size."""
    directory = copy_of(form, tmp_path / "x")
    path = sorted(path for path in directory.iterdir() if path.suffix in (".bin", ".safetensors"))[0]
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(CheckpointError, match=rf"{path.name} \([\d,]+ bytes\) is damaged or cut off"):
        Checkpoint(directory)


def test_missing_shard_is_named(tmp_path: Path) -> None:
    """A shard that the index lists and the directory lacks is named."""
    directory = copy_of("fp16-bin-sharded", tmp_path / "x")
    (directory / "pytorch_model-00002-of-00002.bin").unlink()
    with pytest.raises(
        CheckpointError, match=containing("1 of 2", "missing", "pytorch_model-00002-of-00002.bin")
    ):
        Checkpoint(directory)


def test_lfs_pointer_is_recognised(tmp_path: Path) -> None:
    """A clone without LFS leaves text files; the message says how to get the real ones."""
    (tmp_path / "pytorch_model.bin").write_text("version https://git-lfs.github.com/spec/v1\nsize 1\n")
    with pytest.raises(CheckpointError, match=containing("LFS pointer", "git lfs pull")):
        Checkpoint(tmp_path)


class Hostile:
    """Pickles to a call of a function of the attacker's choice."""

    def __init__(self, witness: Path) -> None:
        self.witness = witness

    def __reduce__(self) -> tuple[object, tuple[str, str]]:
        return open, (str(self.witness), "w")


@pytest.mark.parametrize("zipped", [True, False])
def test_pickle_with_code_is_refused_and_does_not_run(tmp_path: Path, zipped: bool) -> None:
    """A weight file that would run code is refused, in either pickle form; nothing ran."""
    witness = tmp_path / "witness"
    torch.save({"x": Hostile(witness)}, tmp_path / "pytorch_model.bin", _use_new_zipfile_serialization=zipped)
    with pytest.raises(CheckpointError, match=containing("Python code", "refused")):
        Checkpoint(tmp_path)
    assert not witness.exists()


def test_training_state_instead_of_weights_is_refused(tmp_path: Path) -> None:
    """A file whose values are no tensors is not taken for weights."""
    torch.save({"step": 3}, tmp_path / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match="not a table of tensors"):
        Checkpoint(tmp_path)


@pytest.mark.parametrize("content", ["not json", "[]", '{"weight_map": 3}'])
def test_bad_index_is_named(tmp_path: Path, content: str) -> None:
    """An index file that is none is named."""
    (tmp_path / "pytorch_model.bin.index.json").write_text(content)
    with pytest.raises(CheckpointError, match=r"index\.json.*(JSON|weight_map is 3)"):
        Checkpoint(tmp_path)


def test_index_cannot_reach_outside_the_directory(tmp_path: Path) -> None:
    """Shard names with a path are refused."""
    (tmp_path / "model.safetensors.index.json").write_text(
        json.dumps({"weight_map": {"x": "../y.safetensors"}})
    )
    with pytest.raises(CheckpointError, match="outside its own directory"):
        Checkpoint(tmp_path)


def test_wrong_shape_is_found_without_reading(tmp_path: Path) -> None:
    """Shapes are compared before any weight is read; the message shows both."""
    save_file({"x": torch.zeros(2, 3)}, tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError, match=containing("tensor x", "[2, 3]", "config.json", "[2, 4]")):
        require_parameters(Checkpoint(tmp_path), {"x": torch.empty(2, 4, device="meta")})


def test_missing_tensor_is_named(tmp_path: Path) -> None:
    """A tensor that no file holds is named, with the number of others."""
    save_file({"x": torch.zeros(2)}, tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError, match="tensor y and 1 more is in none of the weight files"):
        require_parameters(Checkpoint(tmp_path), dict.fromkeys("yz", torch.empty(2, device="meta")))


def test_zip_that_is_no_checkpoint_is_damaged(tmp_path: Path) -> None:
    """An ordinary zip archive under the weights' name is refused in one sentence."""
    with zipfile.ZipFile(tmp_path / "pytorch_model.bin", "w") as archive:
        archive.writestr("a.txt", pickle.dumps({}))
    with pytest.raises(CheckpointError, match="is damaged or cut off"):
        Checkpoint(tmp_path)
