"""Files that must be inside a folder: what is opened is what is read, whatever links say or become."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
from glm_runtime_torch.checkpoints import confinement
from glm_runtime_torch.checkpoints.confinement import pin_file

from glm_core import AdapterError, CheckpointError, OutsideFolderError

on_linux = pytest.mark.skipif(
    not Path("/proc/self/fd").is_dir(), reason="only Linux tells where an open file is"
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with a file in a directory, and a file with the same name outside."""
    for place, text in (("folder/a", "inside"), ("elsewhere", "outside")):
        (tmp_path / place).mkdir(parents=True)
        (tmp_path / place / "file").write_text(text)
    return tmp_path / "folder"


def test_file_inside_is_read(folder: Path) -> None:
    """By its own name, and by links that stay inside."""
    (folder / "link").symlink_to(folder / "a")
    for path in (folder / "a" / "file", folder / "link" / "file"):
        with pin_file(path, folder) as real:
            assert real.read_text() == "inside"


def test_without_a_folder_the_path_itself_is_used(folder: Path) -> None:
    """Nothing is opened, and links lead anywhere."""
    (folder / "link").symlink_to(folder.parent / "elsewhere")
    with pin_file(folder / "link" / "file", None) as real:
        assert real == folder / "link" / "file"


@pytest.mark.parametrize("place", ["link/file", "a/link", "../elsewhere/file", "/etc/hostname"])
def test_file_elsewhere_is_refused(folder: Path, place: str) -> None:
    """Whether the file is a link or a directory on the way is, or the path itself leads out."""
    (folder / "link").symlink_to(folder.parent / "elsewhere")
    (folder / "a" / "link").symlink_to(folder.parent / "elsewhere" / "file")
    with pytest.raises(OutsideFolderError, match="leads out.*copy"), pin_file(folder / place, folder):
        pytest.fail("the file was opened")


@pytest.mark.parametrize("kind", ["pipe", "directory", "missing", "ring"])
def test_what_is_no_file_is_refused_at_once(folder: Path, kind: str) -> None:
    """Opening a pipe would wait for somebody to write into it."""
    path = folder / kind
    match kind:
        case "pipe":
            os.mkfifo(path)
        case "directory":
            path.mkdir()
        case "ring":
            path.symlink_to(path)
    with pytest.raises(AdapterError, match=kind), pin_file(path, folder):
        pytest.fail("something was opened")


@on_linux
@pytest.mark.parametrize("exchanged", ["file", "directory"])
def test_exchange_between_check_and_opening_is_noticed(
    folder: Path, exchanged: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A link that is put in the place of the file, or of a directory on the way, after the check by name."""
    check = confinement.check_inside

    def check_and_exchange(path: Path, inside: Path) -> Path:
        real = check(path, inside)
        victim = real if exchanged == "file" else real.parent
        (shutil.rmtree if victim.is_dir() else os.unlink)(victim)
        victim.symlink_to(folder.parent / "elsewhere" / ("file" if exchanged == "file" else ""))
        return real

    monkeypatch.setattr(confinement, "check_inside", check_and_exchange)
    with pytest.raises(AdapterError), pin_file(folder / "a" / "file", folder):
        pytest.fail("the file outside was opened")


@on_linux
def test_exchange_while_it_is_read_changes_nothing(folder: Path) -> None:
    """What was opened and checked is what is read, however often."""
    path = folder / "a" / "file"
    with pin_file(path, folder) as real:
        path.unlink()
        path.symlink_to(folder.parent / "elsewhere" / "file")
        assert real.read_text() == "inside"


def test_errors_name_the_file_as_the_user_does(folder: Path) -> None:
    """Not the number of an open file."""
    path = folder / "a" / "file"
    with pytest.raises(CheckpointError) as caught, pin_file(path, folder) as real:
        raise CheckpointError(f"{real} is damaged")
    assert str(caught.value) == f"{path} is damaged"
