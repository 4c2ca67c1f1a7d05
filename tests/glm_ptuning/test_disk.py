"""Where nothing can be written: said in a sentence, and nothing that was there is lost."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import glm_runtime_torch.checkpoints.writer as writer
import pytest
from glm_ptuning._checkpoints import Checkpoints
from key_words import containing
from tiny_models import tiny_checkpoint
from tiny_training import options, train, trained_files, write_rows

from glm_core import ConfigError


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny ChatGLM-6B checkpoint."""
    return tiny_checkpoint(tmp_path_factory.mktemp("model") / "tiny")


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    """Twenty rows to learn."""
    return write_rows(tmp_path / "rows.json")


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 100 kB."""
    place = tmp_path / "disk"
    place.mkdir()
    mount = shutil.which("mount")
    if mount is None or os.name == "nt" or os.geteuid() != 0:
        pytest.skip("only root can mount a small file system")
    mounted = subprocess.run(
        [mount, "-t", "tmpfs", "-o", "size=100k", "tmpfs", str(place)], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("this machine lets nobody mount a file system")
    yield place
    subprocess.run(["umount", str(place)], check=True)


def test_a_full_disk_keeps_what_is_complete(
    model: Path, rows: Path, small_disk: Path, tmp_path: Path
) -> None:
    """On a real full disk: one sentence, earlier checkpoints whole, and with room the same end."""
    out = small_disk / "out"
    job = options(rows, pre_seq_len=8)
    with pytest.raises(ConfigError) as refused:
        train(model, out, {**job, "save_steps": 1})
    message = str(refused.value)
    assert "cannot be written to" in message
    assert "No space left on device" in message
    assert "Make room there and run the same command again" in message
    kept = Checkpoints(out).list_steps()
    assert kept
    assert f"checkpoint-{kept[-1]} is complete and kept" in message
    assert not list(out.glob("unfinished-*"))
    roomy = shutil.copytree(out, tmp_path / "roomy")
    train(model, roomy, {**job, "save_steps": 5})
    train(model, tmp_path / "whole", job)
    assert trained_files(roomy) == trained_files(tmp_path / "whole")


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EIO])
def test_any_failing_write_is_one_sentence(
    model: Path, rows: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    """A write that fails in the second checkpoint leaves the first one, and no half of another."""
    original, calls = writer.SafetensorsWriter.write, []

    def full(self: writer.SafetensorsWriter, name: str, pieces: object) -> None:
        calls.append(name)
        if name == "transformer.prefix_encoder.embedding.weight" and calls.count(name) == 2:
            raise OSError(code, os.strerror(code))
        original(self, name, pieces)  # type: ignore[arg-type]

    monkeypatch.setattr(writer.SafetensorsWriter, "write", full)
    with pytest.raises(ConfigError, match=containing("step 10", os.strerror(code), "checkpoint-5")):
        train(model, tmp_path / "out", options(rows))
    assert Checkpoints(tmp_path / "out").list_steps() == [5]
    assert not list((tmp_path / "out").glob("unfinished-*"))


def test_an_unwritable_folder_is_refused_before_training(model: Path, rows: Path, tmp_path: Path) -> None:
    """A file where the folder should be is named with the reason."""
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="output_dir .* cannot be written: Not a directory"):
        train(model, tmp_path / "file" / "out", options(rows))


def test_a_folder_without_permission_is_refused(
    model: Path, rows: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So is one that the user may not write to."""

    def refuse(path: Path, text: str) -> None:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))

    monkeypatch.setattr("glm_ptuning._job.write_text", refuse)
    with pytest.raises(ConfigError, match="output_dir .* cannot be written: Permission denied"):
        train(model, tmp_path / "out", options(rows))
