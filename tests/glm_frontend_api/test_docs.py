"""docs/api.md says what is so."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import get_args

import pytest
from api_support import Served
from child_process import run
from glm_frontend_api import plugin, strict_json
from glm_frontend_api.errors import Code
from glm_frontend_api.gate import _ROUTES
from glm_http.refusals import RefusalCode

TEXT = (Path(__file__).parents[2] / "docs" / "api.md").read_text("utf-8")
SHELL = re.findall(r"```sh\n(curl.*?)```", TEXT, re.DOTALL)
PYTHON = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)
PLACE = "http://127.0.0.1:8000"


def test_there_is_something_to_run() -> None:
    """The tests below look at something."""
    assert (len(SHELL), len(PYTHON)) == (4, 1)


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
@pytest.mark.parametrize("command", SHELL)
def test_curl_commands_are_answered(demo: Served, command: str) -> None:
    """Each command works as it stands."""
    done = run("bash", "-c", command.replace(PLACE, demo.url))
    assert done.returncode == 0, done.stderr
    assert "error" not in json.loads(done.stdout)


def test_python_code_runs(demo: Served, capsys: pytest.CaptureFixture[str]) -> None:
    """The client's code works as it stands."""
    exec(PYTHON[0].replace(PLACE, demo.url), {})
    printed = capsys.readouterr().out
    assert "--quantize" in printed
    assert re.search(r"^\d+ tokens$", printed, re.MULTILINE)


def test_every_route_metric_and_limit_is_described(demo: Served) -> None:
    """Nothing that the server has is missing."""
    document = demo.http.get("/openapi.json").json()
    assert all(f"`{path}`" in TEXT or f" {path}`" in TEXT for path in _ROUTES)
    chat = document["components"]["schemas"]["ChatCompletionRequest"]["properties"]
    for name, field in chat.items():
        if "description" in field or name in ("stop", "seed", "temperature", "top_p"):
            assert f"`{name}`" in TEXT, name
    metrics = set(re.findall(r"^# TYPE (glm_\w+)", demo.http.get("/metrics").text, re.MULTILINE))
    assert len(metrics) >= 10
    missing = {name for name in metrics if not name.endswith("_created") and f"`{name}" not in TEXT}
    assert missing == set()
    readme = Path(plugin.__file__).parents[2].joinpath("README.md").read_text("utf-8")
    flags = {f"--{option.name.replace('_', '-')}" for option in plugin.describe_frontend().options}
    assert {flag for flag in flags if f"`{flag}`" not in readme} == set()


def test_limits_of_json_are_as_described() -> None:
    """The numbers in the text are those of the code."""
    for limit in (strict_json.MAX_VALUES, strict_json.MAX_DEPTH, strict_json.MAX_KEYS):
        assert re.search(rf"\b{limit:,}\b", TEXT), limit


def test_every_error_code_is_described() -> None:
    """Each code that an error may have stands in the table."""
    # Only the page, which shares the type, sends these.
    of_pages = {"login_required", "not_served", "bad_event", "too_many_bodies"}
    codes = {*get_args(Code), *get_args(RefusalCode)} - of_pages
    assert len(codes) >= 25
    assert {code for code in codes if f"`{code}`" not in TEXT} == set()
