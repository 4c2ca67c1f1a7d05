"""Tests of ``glm run``."""

from __future__ import annotations

import sys
import types
from collections.abc import Callable, Mapping
from typing import Any

import pytest
from fake_plugins import host_loading, plugin
from glm_testing import make_host, null_backend, null_frontend

from glm_core import ChatModel, cli
from glm_core.cli import run
from glm_core.plugins import PluginHost
from glm_core.records import FrontendInfo, Option

Started = list[tuple[Callable[[], ChatModel], Mapping[str, Any]]]
WEB = FrontendInfo(
    "web", "a page", "fake_web:run", (Option("port", "", int, 7860), Option("share", "", bool, False))
)


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> Started:
    """How often the frontend ``web`` was started, and with what."""
    calls: Started = []
    module = types.ModuleType("fake_web")
    vars(module)["run"] = lambda open_model, options: calls.append((open_model, options))
    monkeypatch.setitem(sys.modules, "fake_web", module)
    use(
        monkeypatch,
        make_host(null=null_backend, web=plugin(describe_frontend=lambda: WEB), simple=null_frontend),
    )
    return calls


def use(monkeypatch: pytest.MonkeyPatch, host: PluginHost) -> None:
    """Let ``glm run`` see this host."""
    monkeypatch.setattr(run, "get_default_host", lambda: host)


def test_frontend_gets_its_options_and_opens_the_model_when_it_wants(
    started: Started, capsys: pytest.CaptureFixture[str]
) -> None:
    """The model is opened by the frontend's call; what ``auto`` chose is told on standard error."""
    assert cli.main(["run", "web", "--model", "null", "--port", "80", "--share"]) == 0
    ((open_model, options),) = started
    assert options == {"port": 80, "share": True}
    assert capsys.readouterr() == ("", "")
    with open_model() as model:
        assert model.chat("hi")[0] == "hi"
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err == "glm: device auto: null (no hardware at all)\nglm: dtype auto: float32\n"


def test_options_have_their_defaults(started: Started) -> None:
    """A frontend always gets all of its options."""
    cli.main(["run", "web"])
    assert started[0][1] == {"port": 7860, "share": False}


def test_wrong_model_option_is_refused_before_the_frontend_starts(
    started: Started, capsys: pytest.CaptureFixture[str]
) -> None:
    """No port is opened for a model that cannot be."""
    assert cli.main(["run", "web", "--dtype", "half"]) == 2
    assert "dtype 'half' is unknown" in capsys.readouterr().err
    assert cli.main(["run", "web", "--adapter", "=x"]) == 2
    assert started == []


def test_wrong_value_of_a_frontends_option_is_refused(
    started: Started, capsys: pytest.CaptureFixture[str]
) -> None:
    """The parser checks types."""
    assert cli.main(["run", "web", "--port", "x"]) == 2
    assert "glm run web: error: argument --port: expected a whole number, got 'x'" in capsys.readouterr().err
    assert started == []


@pytest.mark.usefixtures("started")
def test_no_frontend_is_answered_with_the_installed_ones(capsys: pytest.CaptureFixture[str]) -> None:
    """``glm run`` alone fails, and shows on standard error what could be run."""
    assert cli.main(["run"]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert "  null  asks one question and prints the answer\n  web  a page\n" in printed.err


@pytest.mark.usefixtures("started")
def test_help_lists_the_installed_frontends(capsys: pytest.CaptureFixture[str]) -> None:
    """``glm run --help`` succeeds on standard output."""
    assert cli.main(["run", "--help"]) == 0
    printed = capsys.readouterr()
    assert printed.err == ""
    assert "installed frontends:\n  null  asks" in printed.out


def test_help_of_a_frontend_opens_nothing(started: Started, capsys: pytest.CaptureFixture[str]) -> None:
    """``glm run web --help`` shows the frontend's own options and those of the model."""
    assert cli.main(["run", "web", "--help"]) == 0
    text = capsys.readouterr().out
    assert text.startswith("usage: glm run web")
    assert "--share, --no-share" in text
    assert "--quantize" in text
    assert started == []


@pytest.mark.usefixtures("started")
def test_options_before_the_frontend_are_refused_with_advice(capsys: pytest.CaptureFixture[str]) -> None:
    """Which options there are depends on the frontend, so it comes first."""
    assert cli.main(["run", "--device", "cpu", "web"]) == 2
    assert "name the frontend first: glm run FRONTEND --device ..." in capsys.readouterr().err


@pytest.mark.usefixtures("started")
@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("api", "glm: frontend 'api' is not installed: pip install glm-frontend-api\n"),
        ("tv", "glm: frontend 'tv' is unknown; installed are: null, web\n"),
    ],
)
def test_frontend_that_is_not_there_is_refused(
    name: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """One of ours is named with its package, any other with what there is."""
    assert cli.main(["run", name]) == 2
    assert capsys.readouterr().err == message


def test_frontend_that_is_broken_is_not_called_missing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Whoever has it installed learns where to look."""
    use(monkeypatch, host_loading(lambda: 1 / 0, name="frontend_web"))
    assert cli.main(["run", "web"]) == 2
    assert "(Installed, but not used: frontend_web; glm plugins says why.)" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("target", "reason"),
    [
        ("no_such_module:run", "ModuleNotFoundError: No module named 'no_such_module'"),
        (
            "glm_testing.null_frontend:start",
            "AttributeError: module 'glm_testing.null_frontend' has no",
        ),
    ],
)
def test_frontend_that_cannot_be_started_is_named(
    target: str, reason: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """What is missing is named, and no traceback is shown."""
    info = FrontendInfo("web", "", target)
    use(monkeypatch, make_host(web=plugin(describe_frontend=lambda: info)))
    assert cli.main(["run", "web"]) == 2
    assert capsys.readouterr().err.startswith(f"glm: frontend 'web' cannot be started: {target}: {reason}")


def test_two_frontends_of_one_name_are_decided_by_plugin_name(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The plugin whose name sorts first has it, whatever was loaded first."""
    first, second = FrontendInfo("web", "first", "a:b"), FrontendInfo("web", "second", "a:b")
    use(
        monkeypatch,
        make_host(b=plugin(describe_frontend=lambda: second), a=plugin(describe_frontend=lambda: first)),
    )
    cli.main(["run", "--help"])
    assert "  web  first\n" in capsys.readouterr().out
