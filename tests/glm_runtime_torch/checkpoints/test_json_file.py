"""Every JSON file of a checkpoint is read within bounds, or refused in one sentence that names it."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from glm_runtime_torch.checkpoints import json_file
from glm_runtime_torch.checkpoints.json_file import read_json

from glm_core import CheckpointError


def written(folder: Path, content: bytes) -> Path:
    """A JSON file with those bytes."""
    path = folder / "config.json"
    path.write_bytes(content)
    return path


@pytest.mark.parametrize(
    ("content", "key_word"),
    [
        (b"", "JSON"),
        (b"{", "JSON"),
        (b"[1]", "a list"),
        (b"null", "null"),
        (b"3", "a number"),
        (b'"text"', "text"),
        (b"\xff\xfe{\x00}\x00", "UTF-8"),
        (b'{"x": "\xe9"}', "UTF-8"),
        (b'{"x": "\\ud800"}', "surrogates"),
        (b"[" * 100_000, "nested"),
        (b'{"a":' * 900 + b"1" + b"}" * 900, "nested"),
        (b'{"a":' * 70 + b"1" + b"}" * 70, "nested"),
        (b'{"num_layers": ' + b"9" * 5000 + b"}", "5,000 digits"),
        (b'{"num_layers": 2, "num_layers": 3}', "num_layers.*twice"),
        (b"version https://git-lfs.github.com/spec/v1\nsize 1\n", "LFS pointer"),
    ],
)
def test_what_is_no_plain_json_object_is_one_sentence(content: bytes, key_word: str, tmp_path: Path) -> None:
    """The sentence names the file and what is wrong with it; nothing deeper or longer is worked on."""
    path = written(tmp_path, content)
    with pytest.raises(CheckpointError, match=rf"config\.json.*{key_word}"):
        read_json(path)


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b'\xef\xbb\xbf{"x": 1}', {"x": 1}),
        ('{"x": "智"}'.encode(), {"x": "智"}),
        (b'{"x": 1, "x": 1}', {"x": 1}),
        (
            b'{"model_max_length": 1000000000000000019884624838656}',
            {"model_max_length": 10**30 + 19884624838656},
        ),
        (b'{"x": "\\ud83d\\ude00"}', {"x": "😀"}),
    ],
)
def test_what_programs_really_write_is_read(content: bytes, expected: object, tmp_path: Path) -> None:
    """A byte order mark, Chinese, a harmless double, transformers' own infinity and a pair of surrogates."""
    assert read_json(written(tmp_path, content)) == expected


def test_a_file_of_nothing_but_brackets_is_refused_before_it_is_parsed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Elements are counted first: each takes many times its bytes in memory."""
    monkeypatch.setattr(json, "loads", lambda *_, **__: pytest.fail("it was parsed"))
    path = written(tmp_path, b"[" + b"{}," * json_file.MAX_JSON_ELEMENTS + b"{}]")
    with pytest.raises(CheckpointError, match="elements"):
        read_json(path)


def test_a_large_or_sparse_file_is_not_read(tmp_path: Path) -> None:
    """Two gigabytes of hole take no memory: the size alone refuses them."""
    path = written(tmp_path, b"{}")
    os.truncate(path, 2**31)
    with pytest.raises(CheckpointError, match=r"2,147,483,648 bytes"):
        read_json(path)


def test_what_is_no_file_is_never_waited_for(tmp_path: Path) -> None:
    """A pipe would block for ever, a directory cannot be read, and a missing file is missing."""
    os.mkfifo(tmp_path / "pipe.json")
    (tmp_path / "folder.json").mkdir()
    for name, key_word in (("pipe", "pipe"), ("folder", "directory"), ("absent", "missing")):
        with pytest.raises(CheckpointError, match=key_word):
            read_json(tmp_path / f"{name}.json")
