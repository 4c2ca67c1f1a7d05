"""Lists of sizes and hashes: written, read back, and never trusted beyond their directory."""

from __future__ import annotations

import contextlib
import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
from glm_hub.checksums import (
    GIT_SHA1,
    SHA256,
    Checksums,
    KnownFile,
    check_sizes,
    find_checksums,
    hash_file,
    keep_hub_checksums,
    write_checksums,
)
from glm_hub.model_files import CHECKSUMS, find_companions, list_model_files
from hypothesis import given, settings, strategies as st

from glm_core import CheckpointError

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=70),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=9), inner, max_size=3),
    max_leaves=8,
)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A directory with files of a model and others."""
    directory = tmp_path / "model"
    (directory / "additional_chat_templates").mkdir(parents=True)
    for name, content in {
        "config.json": "{}",
        "model.safetensors": "weights",
        "tokenizer.model": "pieces",
        "LICENSE": "free",
        "additional_chat_templates/tools.jinja": "{{ 1 }}",
        "trainer_state.json": "{}",
        "modeling.py": "raise SystemExit",
        "notes.md": "mine",
    }.items():
        (directory / name).write_text(content)
    return directory


MODEL_FILES = [
    *("LICENSE", "additional_chat_templates/tools.jinja", "config.json", "model.safetensors"),
    "tokenizer.model",
]


def test_list_names_the_files_of_the_model_alone(model: Path) -> None:
    """Sizes and SHA-256 of what makes up the model; not of states of a training, code, or the list itself."""
    path = write_checksums(model)
    assert path == model / CHECKSUMS
    assert [entry.name for entry in model.iterdir() if entry.suffix == ".tmp"] == []
    found = find_checksums(model)
    assert found is not None
    assert sorted(found.files) == MODEL_FILES == list_model_files(model)
    for name, known in found.files.items():
        content = (model / name).read_bytes()
        assert known == KnownFile(len(content), SHA256, hashlib.sha256(content).hexdigest())
    assert Path(CHECKSUMS) not in find_companions(model)


@pytest.mark.parametrize(
    ("content", "digest"),
    [
        (b"", "e69de29bb2d1d6434b8b29ae775ad8c2e48c5391"),
        (b"hello\n", "ce013625030ba8dba906f756967f9e9ca394464a"),
    ],
)
def test_git_hashes_are_those_of_git(content: bytes, digest: str, tmp_path: Path) -> None:
    """Small files of the hub are named as ``git hash-object`` names them."""
    (tmp_path / "x").write_bytes(content)
    assert hash_file(tmp_path / "x", GIT_SHA1) == digest


def test_what_a_hub_said_is_kept_beside_the_snapshot(tmp_path: Path) -> None:
    """The list stands in the model's folder of the cache, not among the files of the snapshot."""
    snapshot = tmp_path / "models--a--b" / "snapshots" / "c0ffee"
    snapshot.mkdir(parents=True)
    files = {"config.json": KnownFile(2, GIT_SHA1, "a" * 40), "x.bin": KnownFile(7), "y.bin": KnownFile()}
    keep_hub_checksums(snapshot, "a/b", files)
    assert list(snapshot.iterdir()) == []
    assert find_checksums(snapshot) == Checksums("a/b", files)


def test_a_cache_that_cannot_be_written_serves_all_the_same(tmp_path: Path) -> None:
    """Nothing is raised where the list cannot be kept."""
    snapshot = tmp_path / "models--a--b" / "snapshots" / "c0ffee"
    snapshot.mkdir(parents=True)
    (tmp_path / "models--a--b" / "glm").touch()  # where its folder should be
    keep_hub_checksums(snapshot, "a/b", {})
    assert find_checksums(snapshot) is None


def test_links_of_a_cache_say_their_hashes(tmp_path: Path) -> None:
    """What another program downloaded is known by the names of the blobs, also where one is gone."""
    blobs, snapshot = tmp_path / "blobs", tmp_path / "snapshots" / "c0ffee"
    for folder in (blobs, snapshot, tmp_path / "elsewhere"):
        folder.mkdir(parents=True)
    targets = {
        "model.safetensors": blobs / ("a" * 64),
        "config.json": blobs / ("b" * 40),
        "strange.json": blobs / "unnamed",
        "outside.json": tmp_path / "elsewhere" / ("c" * 64),
    }
    for name, target in targets.items():
        (snapshot / name).symlink_to(target)
    assert find_checksums(snapshot) == Checksums(
        "Hugging Face's cache",
        {
            "model.safetensors": KnownFile(None, SHA256, "a" * 64),
            "config.json": KnownFile(None, GIT_SHA1, "b" * 40),
        },
    )


def test_sizes_of_weights_are_compared(model: Path) -> None:
    """A weight file that lost or won a byte is refused; a configuration may be edited; none is no fault."""
    check_sizes(model)
    write_checksums(model)
    check_sizes(model)
    (model / "config.json").write_text("{ }")
    check_sizes(model)
    for content in ("weight", "weights!"):
        (model / "model.safetensors").write_text(content)
        with pytest.raises(CheckpointError, match=rf"model\.safetensors has {len(content)} bytes, 7 "):
            check_sizes(model)


@pytest.mark.parametrize(
    "name",
    ["../x", "/etc/passwd", "a/../../x", "", "a\\..\\x", "C:x", ".", "..", "a/..", "a\0b", "a/" + "x" * 256],
)
def test_names_outside_the_directory_are_refused(name: str, model: Path) -> None:
    """A list of a stranger makes nobody look at other files."""
    content = {"version": 1, "files": {name: {"size": 1}}}
    (model / CHECKSUMS).write_text(json.dumps(content))
    with pytest.raises(CheckpointError, match=r"glm_checksums\.json is no list"):
        find_checksums(model)


@settings(max_examples=150, deadline=None)
@given(content=JSON | st.fixed_dictionaries({"version": st.just(1), "files": JSON}), entry=JSON, digest=JSON)
def test_any_json_is_read_or_refused(content: Any, entry: Any, digest: Any, tmp_path_factory: Any) -> None:
    """Whatever stands in a list, it is a list or one sentence."""
    directory = tmp_path_factory.mktemp("any")
    for value in (
        content,
        {"version": 1, "files": {"a": entry}},
        {"version": 1, "files": {"a": {"size": 1, "sha256": digest}}},
    ):
        (directory / CHECKSUMS).write_text(json.dumps(value), "utf-8")
        with contextlib.suppress(CheckpointError):
            assert find_checksums(directory) is not None


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe", b"[" * 100_000, b"null"])
def test_what_is_no_json_is_refused(content: bytes, model: Path) -> None:
    """A damaged list says how to write it again."""
    (model / CHECKSUMS).write_bytes(content)
    with pytest.raises(CheckpointError, match="glm verify --write"):
        find_checksums(model)


@pytest.mark.parametrize("target", ["nowhere", CHECKSUMS, "/dev/zero", "."])
def test_what_stands_in_the_place_of_the_list_is_no_missing_list(target: str, model: Path) -> None:
    """Nothing would be compared, as if nobody had ever written one."""
    (model / CHECKSUMS).unlink(missing_ok=True)
    (model / CHECKSUMS).symlink_to(target)
    with pytest.raises(CheckpointError, match=CHECKSUMS):
        find_checksums(model)
