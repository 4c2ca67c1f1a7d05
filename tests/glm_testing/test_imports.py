"""Tests of what the kit finds out about a plugin's import, in a process of its own."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from glm_testing.conformance._imports import examine_import

NULL = "from glm_testing.null_backend import *\n"


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], str]:
    """Write a plugin that does something at import, and return its module's name."""
    monkeypatch.syspath_prepend(tmp_path)

    def write_plugin(source: str) -> str:
        name = f"plugin_in_{tmp_path.name}".replace("-", "_")
        (tmp_path / f"{name}.py").write_text(NULL + source)
        return name

    return write_plugin


def test_a_plugin_that_does_nothing_has_no_effects(write: Callable[[str], str]) -> None:
    """Daemon threads are nobody's business."""
    source = "import threading\nthreading.Thread(target=threading.Event().wait, daemon=True).start()\n"
    report = examine_import(write(source), 60)
    assert (report.failure, report.effects, report.heavy_at_import) == ("", (), ())


EFFECTS = {
    "print('Welcome to', 'my plugin!', flush=True)": "'Welcome to my plugin!\\nof a program'",
    "os.system('echo of a program')": "of a program",
    "os.chdir('/')": "working directory",
    "locale.setlocale(locale.LC_ALL, 'POSIX')": "locale",
    "logging.getLogger().addHandler(logging.NullHandler())": "root logger",
    "sys.stderr = sys.stdout": "standard stream",
    "os.dup2(1, 2)": "file descriptor",
    "signal.signal(signal.SIGINT, signal.SIG_IGN)": "signal handler",
    "os.environ['GLM_TEST_OF_EFFECTS'] = '1'": "environment variables GLM_TEST_OF_EFFECTS",
    "threading.Thread(target=threading.Event().wait).start()": "no daemon",
}


def test_every_effect_of_an_import_is_named(
    write: Callable[[str], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """All at once: one effect hides no other, and a thread that never ends does not keep the process."""
    monkeypatch.setenv("LC_ALL", "C.UTF-8")
    modules = "import locale, logging, os, signal, sys, threading\n"
    report = examine_import(write(modules + "\n".join(EFFECTS)), 60)
    said = " | ".join(report.effects)
    assert [words for words in EFFECTS.values() if words not in said] == []
    assert len(report.effects) == len(EFFECTS) - 1  # both texts are one


def test_effects_of_a_description_are_the_plugins_too(write: Callable[[str], str]) -> None:
    """Core asks for descriptions as often as it imports."""
    source = (
        "import os\nfrom glm_core import hookimpl\n@hookimpl\ndef describe_models():\n"
        "    import numpy\n    os.environ['GLM_TEST_OF_EFFECTS'] = '1'\n    return ()\n"
    )
    report = examine_import(write(source), 60)
    assert report.heavy_at_import == ()
    assert report.heavy_in_descriptions == ("numpy",)
    assert len(report.effects) == 1


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("import time\ntime.sleep(3600)", "import did not come back"),
        (
            "import time\nfrom glm_core import hookimpl\n@hookimpl\ndef describe_backend(): time.sleep(3600)",
            "describe_backend did not come back",
        ),
        ("import os\nos._exit(3)", "status 3"),
        ("raise KeyboardInterrupt", "KeyboardInterrupt"),
    ],
)
def test_what_does_not_come_to_an_end_is_a_failure(
    write: Callable[[str], str], source: str, words: str
) -> None:
    """It says which part of the plugin that was."""
    assert words in examine_import(write(source), 0.5).failure
