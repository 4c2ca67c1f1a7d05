"""``glm verify``: damage is found wherever it is, and only what was compared is vouched for."""

from __future__ import annotations

import json
import shutil
import zipfile
from pathlib import Path
from typing import Any

import pytest
from glm_hub.checksums import GIT_SHA1, KnownFile, hash_file, keep_hub_checksums, write_checksums
from glm_hub.model_files import CHECKSUMS
from glm_hub.verify import FileCheck, verify_files, verify_path
from hypothesis import given, settings, strategies as st

from glm_core import CheckpointError
from glm_core.cli import main


def write_safetensors(path: Path, data: bytes) -> None:
    """A file of one tensor of bytes."""
    header = json.dumps({"x": {"dtype": "U8", "shape": [len(data)], "data_offsets": [0, len(data)]}}).encode()
    path.write_bytes(len(header).to_bytes(8, "little") + header + data)


@pytest.fixture(scope="module")
def pristine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model in two forms, with its list."""
    directory = tmp_path_factory.mktemp("verify") / "model"
    directory.mkdir()
    (directory / "config.json").write_text('{"model_type": "chatglm"}')
    write_safetensors(directory / "model.safetensors", bytes(range(200)))
    with zipfile.ZipFile(directory / "pytorch_model.bin", "w") as file:
        file.writestr("archive/data.pkl", b"pickled" * 20)
    write_checksums(directory)
    return directory


@pytest.fixture
def model(pristine: Path, tmp_path: Path) -> Path:
    """A copy to damage."""
    return Path(shutil.copytree(pristine, tmp_path / "model"))


def verdicts(directory: Path) -> dict[str, str]:
    """What is found of each file."""
    return {check.name: check.verdict for check in verify_path(directory)}


def run_json(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, list[Any]]:
    """Exit status and result of ``glm verify``."""
    status = main(["verify", *arguments, "--json"])
    return status, json.loads(capsys.readouterr().out)


def test_untouched_files_are_fine(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Each file is named with its verdict, the status is 0."""
    status, checks = run_json(capsys, str(model))
    assert status == 0
    assert {check["name"]: check["verdict"] for check in checks} == dict.fromkeys(
        ("config.json", "model.safetensors", "pytorch_model.bin"), "ok"
    )
    assert "3 files" in verify_files(model)


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_any_byte_that_changes_is_found(
    data: st.DataObject, pristine: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """One byte changed, lost or added in any file: that file, and no other, is damaged."""
    directory = Path(shutil.copytree(pristine, tmp_path_factory.mktemp("any") / "model"))
    name = data.draw(st.sampled_from(["config.json", "model.safetensors", "pytorch_model.bin"]))
    content = bytearray((directory / name).read_bytes())
    place = data.draw(st.integers(0, len(content) - 1))
    how = data.draw(st.sampled_from(["change", "cut", "append", "zero"]))
    if how == "change":
        content[place] ^= data.draw(st.integers(1, 255))
    elif how == "cut":
        del content[place:]
    elif how == "append":
        content += bytes(place + 1)
    else:
        content[:] = bytes(len(content))
    (directory / name).write_bytes(content)
    found = verdicts(directory)
    assert found.pop(name) == "damaged"
    assert set(found.values()) == {"ok"}
    with pytest.raises(CheckpointError, match=name):
        verify_files(directory)


def test_damage_ends_the_command_with_2_and_says_what_to_do(
    model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The damaged and the missing file are named on standard error, with the advice that fits each."""
    content = bytearray((model / "model.safetensors").read_bytes())
    content[-1] ^= 1
    (model / "model.safetensors").write_bytes(content)
    (model / "config.json").write_text('{"model_type": "chatgln"}')
    (model / "pytorch_model.bin").unlink()
    assert main(["verify", str(model)]) == 2
    shown = capsys.readouterr()
    assert f"delete {model / 'model.safetensors'}" in shown.err
    assert "glm verify --write" in shown.err
    assert "pytorch_model.bin is missing" in shown.err
    assert "3 of 3 files" in shown.out


def test_without_a_list_only_sizes_are_vouched_for(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Tables of contents are compared with the files, and the answer says that this is not everything."""
    (model / CHECKSUMS).unlink()
    assert verdicts(model) == {
        "config.json": "unknown",
        "model.safetensors": "size",
        "pytorch_model.bin": "size",
    }
    assert main(["verify", str(model)]) == 0
    assert "no hashes are known" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin"])
@pytest.mark.parametrize("share", [0.0, 0.05, 0.5, 0.95])
def test_a_file_that_was_cut_off_is_found_without_a_list(name: str, share: float, model: Path) -> None:
    """A download that broke off shows in the file itself."""
    (model / CHECKSUMS).unlink()
    content = (model / name).read_bytes()
    (model / name).write_bytes(content[: max(2, int(len(content) * share))])
    assert verdicts(model)[name] == "damaged"


@pytest.mark.parametrize(
    "header", [b"[]", b"{", b"null", b'{"x": 3}', b'{"x": {"data_offsets": ["a", "b"]}}', b"[" * 100_000]
)
def test_a_table_of_any_make_is_damaged_and_no_crash(header: bytes, model: Path) -> None:
    """A safetensors file whose table is no table."""
    (model / CHECKSUMS).unlink()
    (model / "model.safetensors").write_bytes(len(header).to_bytes(8, "little") + header)
    assert verdicts(model)["model.safetensors"] == "damaged"


def test_shards_that_an_index_names_must_be_there(model: Path) -> None:
    """A shard that never arrived is missing, though nothing lists hashes."""
    (model / CHECKSUMS).unlink()
    (model / "model.safetensors").unlink()
    write_safetensors(model / "model-00001-of-00002.safetensors", b"abc")
    index = {"weight_map": {"x": "model-00001-of-00002.safetensors", "y": "model-00002-of-00002.safetensors"}}
    (model / "model.safetensors.index.json").write_text(json.dumps(index))
    found = verdicts(model)
    assert found["model-00001-of-00002.safetensors"] == "size"
    assert found["model-00002-of-00002.safetensors"] == "missing"


def test_writing_a_list_takes_the_files_as_they_are(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """``--write`` makes an edited file the right one, and prints where the list is."""
    (model / "config.json").write_text("{}")
    assert verdicts(model)["config.json"] == "damaged"
    assert main(["verify", str(model), "--write"]) == 0
    assert capsys.readouterr().out.strip() == str(model / CHECKSUMS)
    assert set(verdicts(model).values()) == {"ok"}


def test_one_file_that_is_a_model(model: Path) -> None:
    """A model that is one file is looked up in the list beside it."""
    assert [check.verdict for check in verify_path(model / "model.safetensors")] == ["ok"]


def test_a_directory_without_a_model_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Nothing to check is no success."""
    assert main(["verify", str(tmp_path)]) == 2
    assert "no files of a model" in capsys.readouterr().err
    assert main(["verify", str(tmp_path), "--write"]) == 2


def test_a_snapshot_is_compared_with_what_the_hub_said(tmp_path: Path) -> None:
    """Small files by git's hash, large ones by SHA-256; what the hub lists and is not there is missing."""
    snapshot = tmp_path / "models--a--b" / "snapshots" / "c0ffee"
    snapshot.mkdir(parents=True)
    (snapshot / "config.json").write_text("{}")
    digest = hash_file(snapshot / "config.json", GIT_SHA1)
    files = {"config.json": KnownFile(2, GIT_SHA1, digest), "model.safetensors": KnownFile(9)}
    keep_hub_checksums(snapshot, "a/b", files)
    assert verdicts(snapshot) == {"config.json": "ok", "model.safetensors": "missing"}


def test_checks_say_what_they_mean(model: Path) -> None:
    """Every verdict has a message for people."""
    (model / CHECKSUMS).unlink()
    checks: list[FileCheck] = list(verify_path(model))
    assert all(check.message for check in checks)
