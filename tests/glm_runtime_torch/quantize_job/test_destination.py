"""Where a quantised copy may be written: found out before the work, and nothing is left behind."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import glm_runtime_torch.quantize_job.job as job_module
import pytest
from glm_runtime_torch.quantize_job.destination import check_destination
from tiny_models import tiny_checkpoint

from glm_core import ConfigError
from glm_core.cli import main
from glm_core.records import ModelSource, QuantizationScheme, QuantizeJob

Prepare = Callable[[Path], Path]


def make_file(folder: Path) -> Path:
    (folder / "out").write_text("mine")
    return folder / "out"


def make_full_directory(folder: Path) -> Path:
    (folder / "out").mkdir()
    (folder / "out" / "mine").touch()
    return folder / "out"


def make_link(target: str) -> Prepare:
    def prepare(folder: Path) -> Path:
        (folder / "empty").mkdir()
        (folder / "file").touch()
        (folder / "out").symlink_to(target)
        return folder / "out"

    return prepare


def make_pipe(folder: Path) -> Path:
    os.mkfifo(folder / "out")
    return folder / "out"


def make_taken_partial(folder: Path) -> Path:
    (folder / "out.partial").symlink_to("nowhere")
    return folder / "out"


def make_file_above(folder: Path) -> Path:
    (folder / "file").touch()
    return folder / "file" / "below" / "out"


def make_dead_link_above(folder: Path) -> Path:
    (folder / "link").symlink_to("nowhere")
    return folder / "link" / "out"


# What stands at the destination, and the words that say so.
REFUSED: dict[str, tuple[Prepare, str]] = {
    "a file": (make_file, "is a file"),
    "a directory with something in it": (make_full_directory, "not empty"),
    "a link to nothing": (make_link("nowhere"), "link to nowhere, which does not exist"),
    "a link to an empty directory": (make_link("empty"), "link to empty"),
    "a link to a file": (make_link("file"), "link to file"),
    "a link to itself": (make_link("out"), "link to out"),
    "a pipe": (make_pipe, "is a file"),
    "a link where the copy would grow": (make_taken_partial, "link to nowhere"),
    "a file above": (make_file_above, "no directory"),
    "a dead link above": (make_dead_link_above, "no directory"),
    "a name that becomes too long": (lambda folder: folder / ("x" * 250), "too long"),
    "a folder with too long a name": (lambda folder: folder / ("x" * 300) / "out", "too long"),
    "no name": (lambda folder: folder / "..", "no new directory"),
    "the root": (lambda folder: Path("/"), "no new directory"),
    "a NUL": (lambda folder: folder / "o\0ut", "NUL"),
    "a mount point": (lambda folder: Path("/proc"), "not empty|mount point"),
    "a file system that takes no files": (lambda folder: Path("/proc/out"), "cannot be written"),
    "the source itself": (lambda folder: folder / "source", "source itself"),
    "inside the source": (lambda folder: folder / "source" / "deep" / "out", "inside the source"),
    "around the source": (lambda folder: folder / "around", "holds the source"),
}


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A tiny model, which can also be reached through a link."""
    directory = tiny_checkpoint(tmp_path / "around.partial" / "tiny")
    (tmp_path / "source").symlink_to(directory)
    return directory


def list_tree(folder: Path) -> list[tuple[str, bool]]:
    """Every path below a folder, and whether it is a link."""
    return sorted((path.as_posix(), path.is_symlink()) for path in folder.rglob("*"))


@pytest.mark.parametrize("what", REFUSED)
def test_what_no_directory_can_replace_is_refused_before_the_work(
    what: str, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One sentence with the reason; no weight is opened, and nothing new stands anywhere."""
    prepare, words = REFUSED[what]
    destination = prepare(tmp_path)
    before = list_tree(tmp_path)

    def open_weights(*_: object) -> None:
        raise AssertionError("the weights were opened")

    monkeypatch.setattr(job_module, "open_model_weights", open_weights)
    with pytest.raises(ConfigError, match=words):
        job_module.quantize_checkpoint(
            ModelSource("tiny", source), QuantizeJob(destination, QuantizationScheme(8))
        )
    assert list_tree(tmp_path) == before


@pytest.mark.parametrize("what", ["a file", "a link to nothing", "a link to an empty directory", "a pipe"])
def test_command_refuses_before_it_looks_for_the_source(
    what: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A destination that is taken is refused before a model of many gigabytes is downloaded for it."""

    def download(*_: object, **__: object) -> Path:
        raise AssertionError("the source was downloaded")

    monkeypatch.setattr("glm_hub.download", download)
    prepare, words = REFUSED[what]
    assert main(["quantize", "org/name", str(prepare(tmp_path)), "--bits", "8"]) == 2
    assert words.split(",")[0] in capsys.readouterr().err


@pytest.fixture
def listener(tmp_path: Path) -> Iterator[Path]:
    """A socket in the file system."""
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(tmp_path / "s"))
        yield tmp_path / "s"


def test_a_socket_is_refused(listener: Path, source: Path) -> None:
    """Nothing that is there and no directory is replaced."""
    with pytest.raises(ConfigError, match="is a file"):
        check_destination(listener, source)


@pytest.mark.parametrize("name", ["out", "new/folders/out", "with spaces and 中文", "x" * 240])
def test_a_destination_that_can_be_written_leaves_no_trace(name: str, source: Path, tmp_path: Path) -> None:
    """Trying it out makes nothing that stays, folders above included."""
    before = list_tree(tmp_path)
    check_destination(tmp_path / name, source)
    assert list_tree(tmp_path) == before


def test_a_relative_destination_and_an_empty_directory_are_fine(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The copy comes to stand in the working directory, in the place of an empty directory."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "out").mkdir()
    assert main(["quantize", str(source), "out", "--bits", "8"]) == 0
    assert (tmp_path / "out" / "model.safetensors").is_file()
    assert not (tmp_path / "out.partial").exists()
