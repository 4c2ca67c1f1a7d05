"""Downloading from ModelScope, against a stand-in on the loopback interface."""

from __future__ import annotations

import errno
import hashlib
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from glm_hub.checksums import SHA256, KnownFile, find_checksums
from glm_hub.verify import verify_path
from hub_machine import (
    DATA,
    OTHER_WEIGHTS,
    PYTHON,
    WEIGHTS,
    Machine,
    contents,
    nowhere,
)
from standin_modelscope import StandinModelScope, standin_modelscope


@pytest.fixture
def modelscope() -> Iterator[StandinModelScope]:
    """A ModelScope that offers nothing yet, where its client is installed."""
    pytest.importorskip(
        "modelscope_hub", reason="ModelScope's client is not installed: pip install modelscope-hub"
    )
    with standin_modelscope() as served:
        yield served


@pytest.fixture
def shanghai(modelscope: StandinModelScope, tmp_path: Path) -> Machine:
    """A machine that takes its models from ModelScope, and asks only once."""
    environment = {"MODELSCOPE_ENDPOINT": modelscope.url, "MODELSCOPE_REPO_TREE_PAGE_MAX_ATTEMPTS": "1"}
    return Machine(tmp_path, "modelscope", environment)


class TestModelScope:
    """The same from the other hub."""

    def test_only_data_files_arrive(self, modelscope: StandinModelScope, shanghai: Machine) -> None:
        """Data files arrive whole, safetensors alone; Python code is not even asked for."""
        data = DATA | {"model.safetensors": WEIGHTS}
        modelscope.models["org/name"] = {"master": data | PYTHON | {"pytorch_model.bin": OTHER_WEIGHTS}}
        assert contents(shanghai.download()) == data
        assert {name for name, _, _ in modelscope.fetched} == set(data)

    def test_torch_shards_come_where_nothing_else_is(
        self, modelscope: StandinModelScope, shanghai: Machine
    ) -> None:
        """Where there are only ``.bin`` shards, they arrive."""
        modelscope.models["org/name"] = {"master": DATA | {"pytorch_model.bin": WEIGHTS}}
        assert contents(shanghai.download()) == DATA | {"pytorch_model.bin": WEIGHTS}

    def test_what_the_hub_says_of_hashes_is_kept(
        self, modelscope: StandinModelScope, shanghai: Machine
    ) -> None:
        """The list has every fetched file with its size and SHA-256, and nothing that was left out."""
        modelscope.models["org/name"] = {"master": DATA | PYTHON}
        folder = shanghai.download()
        found = find_checksums(folder)
        assert found is not None
        assert found.files == {
            name: KnownFile(len(data), SHA256, hashlib.sha256(data).hexdigest())
            for name, data in DATA.items()
            for name, data in DATA.items()
        }
        assert {check.name: check.verdict for check in verify_path(folder)} == dict.fromkeys(DATA, "ok")

    def test_pinned_revision(self, modelscope: StandinModelScope, shanghai: Machine) -> None:
        """Every file is asked for at the revision that was named."""
        modelscope.models["org/name"] = {"master": {"config.json": b"new"}, "v1.0": {"config.json": b"old"}}
        assert contents(shanghai.download(revision="v1.0")) == {"config.json": b"old"}
        assert modelscope.fetched == [("config.json", "v1.0", None)]

    def test_second_run_fetches_nothing(self, modelscope: StandinModelScope, shanghai: Machine) -> None:
        """What is in the cache is not fetched again."""
        modelscope.models["org/name"] = {"master": DATA}
        first = shanghai.download()
        modelscope.fetched.clear()
        assert shanghai.download() == first
        assert modelscope.fetched == []

    def test_cut_connection_is_continued(self, modelscope: StandinModelScope, shanghai: Machine) -> None:
        """When the server cuts a connection, the rest is asked for."""
        modelscope.models["org/name"] = {"master": {"model.safetensors": WEIGHTS}}
        modelscope.cut_after["model.safetensors"] = 200_000
        assert contents(shanghai.download()) == {"model.safetensors": WEIGHTS}
        assert [asked for _, _, asked in modelscope.fetched] == [None, "bytes=200000-"]

    def test_offline_takes_the_cache(self, modelscope: StandinModelScope, shanghai: Machine) -> None:
        """What was downloaded is found, without one request."""
        modelscope.models["org/name"] = {"master": DATA}
        there = shanghai.download()
        modelscope.asked = 0
        assert shanghai.download(offline=True) == there
        assert modelscope.asked == 0

    def test_offline_without_the_model(self, modelscope: StandinModelScope, shanghai: Machine) -> None:
        """What is not in the cache is an error, without one request."""
        message = shanghai.failure(offline=True)
        assert message.startswith("org/name on ModelScope is not in the cache and offline mode is on. ")
        assert modelscope.asked == 0

    @pytest.mark.parametrize(
        ("status", "expected"),
        [
            (0, "org/name on ModelScope does not exist; "),
            (401, "org/name on ModelScope is private, or given only to those who accepted its terms: "),
            (403, "org/name on ModelScope is private, or given only to those who accepted its terms: "),
            (500, "org/name on ModelScope could not be downloaded: [E1002] [500] as the test asked"),
        ],
    )
    def test_refusals(
        self, modelscope: StandinModelScope, shanghai: Machine, status: int, expected: str
    ) -> None:
        """Each way in which the hub refuses has its own sentence."""
        modelscope.status = status
        assert shanghai.failure().startswith(expected)

    def test_unknown_revision(self, modelscope: StandinModelScope, shanghai: Machine) -> None:
        """A revision that is not there is named."""
        modelscope.models["org/name"] = {"master": DATA}
        assert shanghai.failure(revision="v9").startswith(
            "org/name on ModelScope at revision v9 does not exist"
        )

    def test_endpoint_that_is_no_hub(self, modelscope: StandinModelScope, shanghai: Machine) -> None:
        """A page in place of the hub's answer is recognised."""
        modelscope.page = b"<html>Log in to the hotel"
        assert "what answers is not ModelScope" in shanghai.failure()

    def test_no_network(self, shanghai: Machine) -> None:
        """A refused connection names the variable of the endpoint and the other hub."""
        shanghai.environment["MODELSCOPE_ENDPOINT"] = nowhere()
        refused = ConnectionRefusedError(errno.ECONNREFUSED, os.strerror(errno.ECONNREFUSED))
        assert shanghai.failure() == (
            f"org/name on ModelScope could not be downloaded: {refused}. "
            "Check the network and MODELSCOPE_ENDPOINT, try --hub huggingface, "
            "or pass --model a local directory."
        )

    def test_cache_that_cannot_be_made(self, modelscope: StandinModelScope, shanghai: Machine) -> None:
        """A cache folder below a file is reported with the variable that moves it."""
        modelscope.models["org/name"] = {"master": DATA}
        (shanghai.home / "file").touch()
        shanghai.environment["MODELSCOPE_CACHE"] = str(shanghai.home / "file" / "cache")
        message = shanghai.failure()
        assert message.startswith("org/name on ModelScope could not be written to the cache: ")
        assert "name another in MODELSCOPE_CACHE" in message

    def test_command_line(self, modelscope: StandinModelScope, shanghai: Machine) -> None:
        """The command's standard output stays clean, and its error is one line."""
        arguments = ("--model", "org/name", "--hub", "modelscope", "--device", "cpu")
        status, output, errors = shanghai.glm("chat", "你好", *arguments)
        assert (status, output) == (2, "")
        assert errors.startswith("glm: org/name on ModelScope does not exist")
        assert errors.count("\n") == 1
