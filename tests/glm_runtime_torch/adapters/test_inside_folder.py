"""Adapters that must be inside a folder: no file that is read may really be elsewhere."""

from __future__ import annotations

import json
import shutil
import threading
from pathlib import Path

import pytest
import torch
from glm_runtime_torch.adapters.directory import open_adapter
from glm_runtime_torch.adapters.files import BaseModel, save_adapter
from glm_runtime_torch.adapters.loading import load_prefix_encoder
from glm_runtime_torch.families.registry import CHATGLM
from glm_runtime_torch.model.directory import read_config
from glm_runtime_torch.network.prefix_encoder import PrefixEncoder
from goldens import DATA
from safetensors.torch import load_file, save_file

from glm_core import OutsideFolderError

V1 = DATA / "chatglm-6b"
CONFIG = read_config(V1, json.loads((V1 / "ckpt" / "fp16-bin" / "config.json").read_text()), CHATGLM)
LENGTH = 4


def write(directory: Path, value: float) -> PrefixEncoder:
    """Write an adapter whose every weight is ``value``."""
    encoder = CHATGLM.build_prefix_encoder(CONFIG, LENGTH, False)
    torch.nn.init.constant_(encoder.embedding.weight, value)
    save_adapter(directory, encoder, family="chatglm", base=BaseModel("golden"))
    shutil.copy(V1 / "ckpt" / "fp16-bin" / "config.json", directory)
    return encoder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with an adapter of ones in it, beside the folder one of twos."""
    write(tmp_path / "folder" / "ads", 1.0)
    write(tmp_path / "elsewhere", 2.0)
    return tmp_path / "folder"


def make_form(directory: Path, form: str) -> None:
    """Turn an adapter into another form that is read too."""
    weights = directory / "model.safetensors"
    match form:
        case "torch":
            torch.save(load_file(weights), directory / "pytorch_model.bin")
            weights.unlink()
        case "shards":
            state = load_file(weights)
            save_file(state, directory / "model-00001-of-00001.safetensors")
            index = {"weight_map": dict.fromkeys(state, "model-00001-of-00001.safetensors")}
            (directory / "model.safetensors.index.json").write_text(json.dumps(index))
            weights.unlink()
        case "job":
            (directory / "checkpoint-9").mkdir()
            for path in [path for path in directory.iterdir() if path.is_file()]:
                path.rename(directory / "checkpoint-9" / path.name)
        case "peft":
            weights.rename(directory / "adapter_model.safetensors")
            (directory / "adapter_config.json").write_text('{"peft_type": "LORA"}')


CASES = [
    ("ours", "model.safetensors"),
    ("ours", "glm_adapter.json"),
    ("ours", "config.json"),
    ("torch", "pytorch_model.bin"),
    ("shards", "model.safetensors.index.json"),
    ("shards", "model-00001-of-00001.safetensors"),
    ("job", "checkpoint-9"),
    ("job", "checkpoint-9/model.safetensors"),
    ("job", "checkpoint-9/glm_adapter.json"),
    ("job", "checkpoint-9/config.json"),
    ("peft", "adapter_config.json"),
]


@pytest.mark.parametrize(("form", "name"), CASES)
def test_every_file_that_is_read_must_be_inside(folder: Path, form: str, name: str) -> None:
    """The file itself would be as good; only that a link leads to it outside is refused."""
    directory = folder / "ads"
    make_form(directory, form)
    shutil.move(directory / name, folder.parent / "outside")
    (directory / name).symlink_to(folder.parent / "outside")
    with pytest.raises(OutsideFolderError, match=name.rpartition("/")[2]):
        open_adapter(directory, folder)


@pytest.mark.parametrize("form", ["ours", "torch", "shards", "job"])
def test_links_that_stay_inside_are_followed(folder: Path, form: str) -> None:
    """As the cache of a hub has them: names that are links to files kept by their content."""
    directory = folder / "ads"
    make_form(directory, form)
    (folder / "blobs").mkdir()
    for number, path in enumerate([path for path in directory.rglob("*") if path.is_file()]):
        shutil.move(path, folder / "blobs" / str(number))
        path.symlink_to(folder / "blobs" / str(number))
    encoder = load_prefix_encoder(open_adapter(directory, folder), CHATGLM, CONFIG)
    assert torch.equal(encoder.embedding.weight, torch.ones(LENGTH, 384))


def test_directory_itself_must_be_inside(folder: Path) -> None:
    """Named by a path that leads out, or by a link."""
    (folder / "link").symlink_to(folder.parent / "elsewhere")
    for path in (folder / "link", folder.parent / "elsewhere", folder / ".." / "elsewhere"):
        with pytest.raises(OutsideFolderError):
            open_adapter(path, folder)


def test_link_that_changes_while_it_is_read_never_lets_the_outside_in(folder: Path) -> None:
    """However often it is tried: what is loaded is what is inside, or nothing."""
    inside, outside = folder / "kept", folder.parent / "elsewhere" / "model.safetensors"
    weights = folder / "ads" / "model.safetensors"
    weights.rename(inside)
    weights.symlink_to(inside)
    done = threading.Event()

    def exchange() -> None:
        turn = 0
        while not done.is_set():
            turn += 1
            fresh = folder / "fresh"
            fresh.symlink_to(outside if turn % 2 else inside)
            fresh.replace(weights)

    other = threading.Thread(target=exchange)
    other.start()
    loaded = refused = 0
    try:
        while loaded + refused < 200:
            try:
                found = load_prefix_encoder(open_adapter(folder / "ads", folder), CHATGLM, CONFIG)
            except OutsideFolderError:
                refused += 1
            else:
                loaded += 1
                assert torch.equal(found.embedding.weight, torch.ones(LENGTH, 384))
    finally:
        done.set()
        other.join()
