"""Tests of ``glm plugins --model``: which runtime takes a model, where, and why the others do not."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from fake_plugins import FakeModel, backend, loader, runtime
from glm_testing import make_host

from glm_core import cli
from glm_core.cli import plugins
from glm_core.records import DeviceInfo, ModelMatch

CPU = DeviceInfo("cpu", "cpu", "a processor")


@pytest.fixture(autouse=True)
def two_runtimes(monkeypatch: pytest.MonkeyPatch) -> None:
    """One runtime that knows every model and one that knows none."""
    host = make_host(
        b=backend(CPU),
        knows=loader(FakeModel, lambda: ModelMatch("fake", "it holds fake.bin")),
        strange=runtime(None),
    )
    monkeypatch.setattr(plugins, "get_default_host", lambda: host)
    for name in ("GLM_DEVICE", "GLM_RUNTIME", "GLM_LANG"):
        monkeypatch.delenv(name, raising=False)


def test_table_says_who_takes_it_where_and_why_not(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A row for each runtime, and the choice below; in Chinese too."""
    monkeypatch.setenv("GLM_LANG", "en")
    assert cli.main(["plugins", "--model", str(tmp_path)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[1].split() == ["fake", "(knows)", "yes", "fake", "cpu", "it", "holds", "fake.bin"]
    assert lines[2].startswith("fake (strange)  no")
    assert "no config.json" in lines[2]
    assert "cpu" in lines[-1]
    monkeypatch.setenv("GLM_LANG", "zh")
    cli.main(["plugins", "--model", str(tmp_path)])
    assert "运行时" in capsys.readouterr().out


def test_json_has_the_same(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """For programs."""
    assert cli.main(["plugins", "--json", "--model", str(tmp_path)]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["chosen"] == {"runtime": "fake", "plugin": "knows", "placed_by": "b", "devices": ["cpu"]}
    assert [(row["plugin"], row["takes"], row["kind"]) for row in found["runtimes"]] == [
        ("knows", True, "fake"),
        ("strange", False, None),
    ]


def test_refusal_is_shown_and_no_error(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the settings would come to is part of the answer."""
    monkeypatch.setenv("GLM_DEVICE", "tpu")
    assert cli.main(["plugins", "--model", str(tmp_path), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["chosen"] is None
    assert "tpu" in found["refusal"]
