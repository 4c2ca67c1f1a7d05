"""The llama.cpp runtime before llama.cpp is needed: which files are its own, and text that is final."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from fake_plugins import run_python

from glm_core import (
    CheckpointError,
)
from glm_core.records import ModelSource


def source(path: Path) -> ModelSource:
    """What core asks about when the user passes a path."""
    return ModelSource(str(path), path)


def kind_of(plugin: ModuleType, path: Path) -> str | None:
    """The kind of model that the runtime sees at a path, ``None`` if it sees none."""
    match = plugin.identify_model(source(path))
    return None if match is None else match.kind


def test_file_is_known_by_its_first_bytes(llamacpp: ModuleType, tmp_path: Path) -> None:
    """Whatever it is called; a file of another format is not ours."""
    blob, text = tmp_path / "sha256-0a1b", tmp_path / "notes.txt"
    blob.write_bytes(b"GGUF\x03\x00\x00\x00")
    text.write_text("GGU")
    assert kind_of(llamacpp, blob) == "gguf"
    assert kind_of(llamacpp, text) is None


def test_directory_with_one_file_is_known(llamacpp: ModuleType, tmp_path: Path) -> None:
    """The later files of a split model belong to its first; an empty directory is not ours."""
    assert kind_of(llamacpp, tmp_path) is None
    for number in (1, 2):
        (tmp_path / f"model-0000{number}-of-00002.gguf").write_bytes(b"GGUF")
    assert kind_of(llamacpp, tmp_path) == "gguf"


def test_directory_with_several_models_asks_for_one(llamacpp: ModuleType, tmp_path: Path) -> None:
    """The sentence names them. Beside a checkpoint of another format they are left alone."""
    for name in ("a.gguf", "b.gguf"):
        (tmp_path / name).write_bytes(b"GGUF")
    with pytest.raises(CheckpointError, match=r"a\.gguf, b\.gguf"):
        llamacpp.identify_model(source(tmp_path))
    (tmp_path / "config.json").write_text("{}")
    assert kind_of(llamacpp, tmp_path) is None


def test_file_that_only_claims_to_be_gguf_is_refused(llamacpp: ModuleType, tmp_path: Path) -> None:
    """As left by git without its large files, or by a download that was cut."""
    pointer = tmp_path / "model.gguf"
    pointer.write_text("version https://git-lfs.github.com/spec/v1")
    with pytest.raises(CheckpointError, match="GGUF"):
        llamacpp.identify_model(source(pointer))


def test_names_and_models_in_memory_are_declined(llamacpp: ModuleType) -> None:
    """Both belong to other runtimes."""
    assert llamacpp.identify_model(ModelSource("remote:model.gguf")) is None
    assert llamacpp.identify_model(ModelSource("object", model=object())) is None


def test_describing_and_identifying_import_nothing_heavy(llamacpp: ModuleType, tmp_path: Path) -> None:
    """``glm --help`` and ``glm plugins --model`` never wait for llama.cpp."""
    file = tmp_path / "model.gguf"
    file.write_bytes(b"GGUF")
    program = (
        "import sys; from pathlib import Path; from glm_runtime_llamacpp import plugin\n"
        "from glm_core.records import ModelSource\n"
        "plugin.describe_runtime(); assert plugin.identify_model(ModelSource('m', Path(sys.argv[1])))\n"
        "print([name for name in ('llama_cpp', 'numpy', 'torch') if name in sys.modules])\n"
    )
    folder = Path(str(llamacpp.__file__)).parents[1]
    done = run_python("-c", program, str(file), environ={"PYTHONPATH": str(folder)})
    assert done.stdout == "[]\n", done.stderr


def test_device_says_what_is_missing(llamacpp: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without llama-cpp-python the runtime is there, and its device says what to install."""
    monkeypatch.setattr(llamacpp, "find_spec", lambda name: None)
    (device,) = llamacpp.describe_runtime().devices
    assert not device.available
    assert "pip install llama-cpp-python" in device.reason


def text_stream(llamacpp: ModuleType, *stop: str) -> Any:
    """The example's `TextStream`."""
    from glm_runtime_llamacpp._text import TextStream

    return TextStream(stop)


def test_characters_come_whole(llamacpp: ModuleType) -> None:
    """Bytes of a character wait for the rest; bytes that never become one are left out."""
    stream = text_stream(llamacpp)
    assert [stream.add(bytes([byte])) for byte in "天a".encode()] == ["", "", "天", "a"]
    assert stream.add(b"\xe5\xa4") == ""
    assert stream.add(b"b") == "b"


def test_text_ends_before_the_first_stop_string(llamacpp: ModuleType) -> None:
    """Also if it is spread over pieces; what only looked like its beginning is given back."""
    stream = text_stream(llamacpp, "END", "D!")
    assert [stream.add(piece) for piece in (b"aE", b"N", b"x", b"E")] == ["a", "", "ENx", ""]
    assert stream.add(b"ND!") == ""
    assert stream.stopped


def test_packages_of_the_example_are_asked_of_nobody() -> None:
    """Both are in no requirements of this project, and the examples say how to get them."""
    root = Path(__file__).parents[2]
    for name in ("requirements.txt", "requirements-dev.txt"):
        text = (root / name).read_text()
        assert "llama" not in text
        assert "gguf" not in text
    assert "pip install llama-cpp-python gguf" in (root / "examples" / "README.md").read_text()
