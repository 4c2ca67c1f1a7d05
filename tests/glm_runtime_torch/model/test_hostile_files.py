"""Whatever stands in a file of a model, it answers or is refused in a sentence, soon and in little memory."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from hostile_files import VALUES, Outcome, copy_with, list_keys, open_and_ask, set_key
from hypothesis import HealthCheck, given, settings, strategies as st
from tiny_families import MAKERS

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=6,
)
FAMILIES = ("chatglm", "chatglm3", "glm4-9b", "glm4", "glm4_moe")
# The same examples every time; benchmarks/fuzz_files.py goes on to others.
bounded = settings(max_examples=25, derandomize=True, suppress_health_check=list(HealthCheck))
Base = Callable[[str], Path]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Base:
    """A tiny model of each family, opened once: what the first costs is the libraries'."""
    made: dict[str, Path] = {}

    def make(family: str) -> Path:
        if family not in made:
            made[family] = MAKERS[family](tmp_path_factory.mktemp(family))
            assert open_and_ask(made[family]).word == "answered"
        return made[family]

    return make


def check(outcome: Outcome, what: object) -> None:
    """Complain of what no file may do."""
    assert not outcome.complaint, f"{what}: {outcome.complaint}"


@pytest.mark.parametrize("family", FAMILIES)
@bounded
@given(data=st.data())
def test_any_value_in_any_key_of_any_json_file(
    family: str, base: Base, data: st.DataObject, tmp_path: Path
) -> None:
    """Keys that are there, keys inside them, and keys that only other models have."""
    change: list[object] = []

    def set_one(directory: Path) -> None:
        names = sorted(path.name for path in directory.glob("*.json"))
        name = data.draw(st.sampled_from(names), label="file")
        keys = data.draw(st.sampled_from(list_keys(directory / name)), label="key")
        value = data.draw(st.sampled_from(VALUES) | JSON, label="value")
        change.extend((name, keys, value))
        set_key(directory / name, keys, value)

    check(open_and_ask(copy_with(base(family), tmp_path / "model", set_one)), change)


@pytest.mark.parametrize("family", FAMILIES)
@bounded
@given(data=st.data())
def test_any_bytes_in_any_file(family: str, base: Base, data: st.DataObject, tmp_path: Path) -> None:
    """Bytes put in, taken out or changed, in every file of a model."""
    change: list[object] = []

    def splice(directory: Path) -> None:
        names = sorted(path.name for path in directory.iterdir() if path.is_file())
        path = directory / data.draw(st.sampled_from(names), label="file")
        whole = path.read_bytes()
        start = data.draw(st.integers(0, min(len(whole), 4096)), label="start")
        stop = data.draw(st.integers(start, len(whole)), label="stop")
        new = data.draw(st.binary(max_size=64), label="bytes")
        change.extend((path.name, start, stop, new))
        path.write_bytes(whole[:start] + new + whole[stop:])

    check(open_and_ask(copy_with(base(family), tmp_path / "model", splice)), change)


@pytest.mark.parametrize("family", FAMILIES)
def test_file_of_two_gigabytes_of_holes_is_never_read(family: str, base: Base, tmp_path: Path) -> None:
    """A sparse file takes a moment to make; each is refused, or not needed, without filling the memory."""
    for source in sorted(path for path in base(family).iterdir() if path.is_file()):

        def widen(directory: Path, name: str = source.name) -> None:
            with (directory / name).open("r+b") as file:
                file.truncate(2**31)

        outcome = open_and_ask(copy_with(base(family), tmp_path / "model", widen))
        check(outcome, source.name)
        assert outcome.word == "refused" or source.name.startswith("LICENSE"), source.name


def test_directory_in_a_files_place_is_refused(base: Base, tmp_path: Path) -> None:
    """A folder of the same name is named, for every file that a model needs."""
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json", "model.safetensors"):

        def replace(directory: Path, name: str = name) -> None:
            (directory / name).unlink()
            (directory / name).mkdir()

        outcome = open_and_ask(copy_with(base("glm4"), tmp_path / "model", replace))
        check(outcome, name)
    shutil.rmtree(tmp_path / "model")


STAND_INS: dict[str, Callable[[Path], object]] = {
    "link that leads nowhere": lambda path: path.symlink_to("nowhere"),
    "ring of links": lambda path: path.symlink_to(path.name),
    "directory": Path.mkdir,
    "pipe": os.mkfifo,
    "device": lambda path: path.symlink_to("/dev/zero"),
}


@pytest.mark.parametrize("stand_in", STAND_INS)
@pytest.mark.parametrize("family", ["chatglm", "glm4-9b", "glm4"])
def test_what_stands_in_the_place_of_a_file_is_no_missing_file(
    family: str, stand_in: str, base: Base, tmp_path: Path
) -> None:
    """Also of a file that a model may lack: its settings would be left out without a word."""
    names = {path.name for path in base(family).iterdir()} - {
        "tokenizer_config.json",
        "special_tokens_map.json",
    }
    for name in sorted({*names, "generation_config.json"}):

        def replace(directory: Path, name: str = name) -> None:
            (directory / name).unlink()
            STAND_INS[stand_in](directory / name)

        outcome = open_and_ask(copy_with(base(family), tmp_path / "model", replace))
        assert outcome.word == "refused", name
        assert name in outcome.message
        assert "is missing" not in outcome.message
