"""Tests of ``--device-map``: how it is read, which devices it means, and when it is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from fake_plugins import FakeModel, backend, runtime
from glm_testing import make_host

from glm_core import ConfigError, DeviceError
from glm_core.config import Settings
from glm_core.device_map import check_device_map, list_mapped_devices, read_device_map
from glm_core.records import NOT_SET, DeviceInfo, Placement
from glm_core.routing import open_model

CPU = DeviceInfo("cpu", "cpu", "a processor")
CARDS = tuple(DeviceInfo(f"cuda:{index}", "cuda", "a card") for index in range(2))
MAP = {"": "cuda:0", "lm_head": "cuda:1"}


def test_map_is_read_from_text_and_from_a_file(tmp_path: Path) -> None:
    """A JSON object, or the path of a file that holds one."""
    file = tmp_path / "map.json"
    file.write_text(json.dumps(MAP), "utf-8")
    assert read_device_map(json.dumps(MAP)) == read_device_map(str(file)) == MAP


@pytest.mark.parametrize("text", ["{", "{}", '{"a": true}', '{"a": [1]}', "/no/such/file", "[]"])
def test_what_is_no_map_is_refused(text: str) -> None:
    """Neither JSON, nor a file, nor names and devices."""
    with pytest.raises(ConfigError, match="--device-map"):
        read_device_map(text)


@pytest.mark.parametrize(
    ("device_map", "devices"),
    [
        (MAP, "cuda:0,1"),
        ({"": "cpu"}, "cpu"),
        ({"": 0, "lm_head": 1}, "auto"),
        ({"": "cpu", "lm_head": "cuda:0"}, "auto"),
    ],
)
def test_map_says_the_devices_where_nothing_else_does(device_map: dict[str, Any], devices: str) -> None:
    """Names of one type are enough; numbers say no type."""
    assert list_mapped_devices(device_map) == devices


@pytest.mark.parametrize("value", ["cpu", "cpu:0", 0])
def test_one_device_takes_a_map_that_puts_everything_there(value: str | int) -> None:
    """Then it changes nothing and means what it says."""
    check_device_map({"": value}, (CPU,))
    check_device_map({"": "cuda:1", "lm_head": 1}, CARDS[1:])


@pytest.mark.parametrize("value", ["cuda:0", "cpu:1", 1, "mps"])
def test_one_device_refuses_a_map_that_names_another(value: str | int) -> None:
    """An option without effect says so."""
    with pytest.raises(ConfigError, match="'lm_head' .*cpu alone"):
        check_device_map({"": "cpu", "lm_head": value}, (CPU,))


def test_map_reaches_the_backend_and_says_the_devices(tmp_path: Path) -> None:
    """``place`` gets it as it was written; without one it is not set."""
    seen: list[Placement] = []

    def place(model: object, placement: Placement) -> object:
        seen.append(placement)
        return model

    host = make_host(b=backend(*CARDS, place=place), r=runtime(FakeModel()))
    settings = Settings(model=str(tmp_path))
    open_model(host, settings, device_map=MAP)
    open_model(host, settings)
    assert [placement.devices for placement in seen] == [("cuda:0", "cuda:1"), ("cuda:0",)]
    assert [placement.device_map for placement in seen] == [MAP, NOT_SET]


def test_map_is_refused_before_anything_is_loaded(tmp_path: Path) -> None:
    """With one device, a map that names another is a mistake."""
    host = make_host(b=backend(CPU), r=runtime(FakeModel()))
    with pytest.raises(ConfigError, match="device_map"):
        open_model(host, Settings(model=str(tmp_path), device="cpu"), device_map=MAP)


@pytest.mark.parametrize("wrong", ["auto", ["cuda:0"], 3, {"": None}])
def test_map_that_is_none_is_refused_from_python_too(wrong: Any) -> None:
    """What other libraries take gets a sentence, not a traceback; ``None`` says nothing, as elsewhere."""
    with pytest.raises(ConfigError, match="^device_map"):
        open_model(make_host(), Settings(), device_map=wrong)
    with pytest.raises(DeviceError, match="^no hardware backend"):  # that far it comes
        open_model(make_host(), Settings(), device_map=None)
