"""Tests of ``glm plugins``, ``glm models`` and ``glm devices``."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fake_plugins import backend, plugin
from glm_testing import make_host, null_backend
from key_words import missing_words

from glm_core import cli
from glm_core.cli import devices, models, plugins
from glm_core.plugins import Candidate, PluginHost
from glm_core.records import DeviceInfo, ModelCard, RuntimeInfo

Lines = Callable[..., list[str]]
GPU = DeviceInfo(
    "cuda:0", "cuda", "a card", False, "the driver is too old", 24 * 10**9, 0, ("float16", "float32")
)

NULL_HOOKS = [
    *("chat_stream", "describe_backend", "describe_models", "describe_runtime"),
    *("identify_model", "load_model", "place"),
]


@pytest.fixture
def use(monkeypatch: pytest.MonkeyPatch) -> Callable[[PluginHost], None]:
    """Let the commands see a host."""

    def replace(host: PluginHost) -> None:
        for module in (devices, models, plugins):
            monkeypatch.setattr(module, "get_default_host", lambda: host)

    return replace


@pytest.fixture
def lines(capsys: pytest.CaptureFixture[str]) -> Lines:
    """Run a command that must succeed; what it prints on standard output, line by line."""

    def run(*arguments: str) -> list[str]:
        assert cli.main(arguments) == 0
        printed = capsys.readouterr()
        assert printed.err == ""
        return printed.out.splitlines()

    return run


def raising() -> Any:
    """A hook or an import that fails."""
    raise OSError("no driver")


def test_plugins_shows_hooks_or_the_reason(use: Callable[[PluginHost], None], lines: Lines) -> None:
    """Name, version, status, and hooks of a good one or what is wrong with a bad one."""
    candidates = [
        Candidate("null", "glm-null", "1.0", lambda: null_backend),
        Candidate("raises", "glm-raises", "0.2", raising),
        Candidate("mute", "glm-mute", "0.3", lambda: plugin(describe_backend=raising)),
        Candidate("off", "glm-off", "0.4", raising),
    ]
    use(PluginHost(candidates, deny=["off"]))
    assert [line.split(maxsplit=3) for line in lines("plugins")] == [
        ["plugin", "version", "status", "hooks, or why not"],
        ["null", "1.0", "ok", ", ".join(NULL_HOOKS)],
        ["raises", "0.2", "broken", "import failed: OSError: no driver"],
        [
            "mute",
            "0.3",
            "broken",
            "describe_backend failed: OSError: no driver",
        ],
        ["off", "0.4", "disabled", "listed in GLM_DISABLE_PLUGINS"],
    ]


def test_plugins_ends_with_remarks(use: Callable[[PluginHost], None], lines: Lines) -> None:
    """Names that two plugins claim stand below the table; without any there is nothing."""
    use(make_host(null=null_backend, twin=plugin(describe_models=lambda: (ModelCard("null", "mine"),))))
    assert lines("plugins")[-4:] == [
        "",
        "remarks:",
        "  null describes model 'null', as twin does; null comes first",
        "  twin describes model 'null', as null does, which comes first",
    ]
    use(make_host(null=null_backend))
    assert "remarks:" not in lines("plugins")


def test_devices_names_the_plugins_that_are_broken(
    use: Callable[[PluginHost], None], capsys: pytest.CaptureFixture[str]
) -> None:
    """On standard error, so that the list stays a list."""
    candidates = [
        Candidate("bad", "glm-bad", "1", raising),
        Candidate("n", "glm-n", "1", lambda: null_backend),
    ]
    use(PluginHost(candidates))
    assert cli.main(["devices"]) == 0
    assert capsys.readouterr().err == "glm: not used, because broken: bad; glm plugins says why\n"


def test_plugins_as_json_has_the_whole_reports(use: Callable[[PluginHost], None], lines: Lines) -> None:
    """One object a plugin, with the package that would have to be updated."""
    use(make_host(null=null_backend))
    (report,) = json.loads("".join(lines("plugins", "--json")))
    assert set(report.pop("seconds")) == {
        "import",
        *(hook for hook in NULL_HOOKS if hook.startswith("describe_")),
    }
    assert report == {
        "name": "null",
        "distribution": "glm-null",
        "version": "0",
        "status": "ok",
        "reason": "",
        "hooks": NULL_HOOKS,
        "remarks": [],
    }


def test_no_plugins_at_all_say_what_to_install(use: Callable[[PluginHost], None], lines: Lines) -> None:
    """Core alone can do nothing, and says so."""
    use(make_host())
    assert lines("plugins") == ["no plugins are installed; try: pip install glm-backend-cpu glm-frontend-cli"]
    assert lines("plugins", "--json") == ["[]"]


def test_models_says_where_each_comes_from(
    use: Callable[[PluginHost], None], lines: Lines, tmp_path: Path
) -> None:
    """Shipped by a package, on a hub, or known to a plugin alone."""
    cards = (
        ModelCard("a", "first", path=tmp_path),
        ModelCard("b", "second", hub_id="x/b", modelscope_id="y/b"),
        ModelCard("c", "third", modelscope_id="y/c"),
        ModelCard("d", "fourth"),
    )
    use(make_host(m=plugin(describe_models=lambda: cards)))
    table = [line.split() for line in lines("models")[1:5]]
    assert table == [
        ["a", "installed", "first"],
        ["b", "x/b", "second"],
        ["c", "y/c", "third"],
        ["d", "a", "plugin", "fourth"],
    ]
    found = json.loads("".join(lines("models", "--json")))
    assert found[0] == {
        "name": "a",
        "summary": "first",
        "path": str(tmp_path),
        "hub_id": None,
        "modelscope_id": None,
        "aliases": [],
        "license": "",
    }


def test_devices_shows_all_and_what_auto_takes(use: Callable[[PluginHost], None], lines: Lines) -> None:
    """Absent ones too, with the reason."""
    use(make_host(cuda=backend(GPU, priority=10), null=null_backend))
    text = lines("devices")
    assert text[1].split(maxsplit=3) == [
        "cuda:0",
        "24.0",
        "GB",
        "?     float16, float32  a card (not available: the driver is too old)",
    ]
    assert text[2].split() == ["null", "?", "?", "float32", "no", "hardware", "at", "all"]
    assert text[-1] == "--device auto takes: null"


def test_devices_as_json_has_every_field(use: Callable[[PluginHost], None], lines: Lines) -> None:
    """The choice of ``auto`` by name, and the devices as their backends describe them."""
    use(make_host(null=null_backend))
    assert json.loads("".join(lines("devices", "--json"))) == {
        "auto": "null",
        "devices": [
            {
                "name": "null",
                "type": "null",
                "label": "no hardware at all",
                "available": True,
                "reason": "",
                "memory_bytes": 0,
                "free_memory_bytes": 0,
                "dtypes": ["float32"],
                "dtype_reason": "",
            }
        ],
    }


def test_devices_of_which_none_can_be_used(use: Callable[[PluginHost], None], lines: Lines) -> None:
    """The table still shows them; in JSON ``auto`` is null."""
    use(make_host(cuda=backend(GPU)))
    expected = "--device auto takes: none; no device is available: cuda:0: the driver is too old"
    assert lines("devices")[-1] == expected
    assert json.loads("".join(lines("devices", "--json")))["auto"] is None


def test_devices_of_runtimes_for_different_models_wait_for_the_model(
    use: Callable[[PluginHost], None], lines: Lines
) -> None:
    """A runtime's own device beside the processor is no conflict; which is taken, the model says."""
    own = RuntimeInfo("own", "", (DeviceInfo("own", "own", "an engine"),))
    engine = plugin(
        describe_runtime=lambda: own,
        identify_model=lambda: None,
        load_model=lambda: pytest.fail("loaded"),
        place=lambda: pytest.fail("placed"),
    )
    use(make_host(cpu=backend(DeviceInfo("cpu", "cpu", "")), engine=engine))
    assert not missing_words(lines("devices")[-1], "--device auto", "cpu or own", "glm plugins --model")
    assert json.loads("".join(lines("devices", "--json")))["auto"] is None


def test_runtime_that_talks_while_it_looks_leaves_the_json_whole(
    use: Callable[[PluginHost], None], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """It is asked once, and what it prints goes to standard error."""
    engine = plugin(
        describe_runtime=lambda: RuntimeInfo("own"),
        identify_model=lambda: print("looking"),
        load_model=lambda: pytest.fail("loaded"),
    )
    use(make_host(cpu=backend(DeviceInfo("cpu", "cpu", "")), engine=engine))
    assert cli.main(["plugins", "--model", str(tmp_path), "--json"]) == 0
    printed = capsys.readouterr()
    assert json.loads(printed.out)["chosen"] is None
    assert printed.err.count("looking") == 1


def test_devices_without_a_backend_is_an_error(
    use: Callable[[PluginHost], None], capsys: pytest.CaptureFixture[str]
) -> None:
    """There is nothing to list, and the message says what to install."""
    use(make_host())
    assert cli.main(["devices"]) == 2
    assert capsys.readouterr().err.startswith(
        "glm: no hardware backend is installed: pip install glm-backend-cpu"
    )
