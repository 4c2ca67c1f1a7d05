"""Import one plugin in a process of its own, ask what it is, and report what that did to the process.

Run as ``python -m glm_testing._import_process MODULE FILE SECONDS``: writes one JSON object to FILE, the
fields of an ``ImportReport``. Standard output is left to the plugin: whatever arrives there, it printed.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import locale
import logging
import os
import signal
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

from glm_core.errors import GlmError
from glm_core.plugins import Candidate, PluginHost
from glm_core.records import BackendInfo, FrontendInfo, ModelCard, RuntimeInfo, TrainerInfo

from ._foreign import make_foreign_sources

HEAVY = ("torch", "transformers", "tensorflow", "jax", "numpy", "pandas", "gradio", "fastapi")
"""Packages that take long to import, or much memory."""

DESCRIPTIONS = {
    "describe_backend": BackendInfo,
    "describe_frontend": FrontendInfo,
    "describe_runtime": RuntimeInfo,
    "describe_trainer": TrainerInfo,
}
"""Hooks that are answered with one record, and the record."""


def main(module_name: str, file: Path, seconds: float) -> None:
    """Load a plugin, write the report, and end the process whatever the plugin left running."""
    stage = "import"

    def give_up() -> None:
        finish(failure=f"{stage} did not come back within {seconds:g} seconds")

    def finish(**report: object) -> None:
        file.write_text(json.dumps(report), "utf-8")
        sys.stdout.flush()
        os._exit(0)  # a thread of the plugin that is no daemon would keep the process alive

    watchdog = threading.Timer(seconds, give_up)
    watchdog.daemon = True
    watchdog.start()
    before, environment, threads = _observe(), dict(os.environ), set(threading.enumerate())
    candidate = Candidate("plugin", module_name, "", lambda: importlib.import_module(module_name))
    host = PluginHost([candidate])
    heavy_at_import = _list_heavy_packages()
    for stage, record in DESCRIPTIONS.items():
        host.describe(stage, record)
    stage = "describe_models"
    host.describe_many(stage, ModelCard)
    heavy_so_far = _list_heavy_packages()
    stage = "identify_model"
    if host.list_answering(stage):
        for source in make_foreign_sources(file.parent).values():
            with contextlib.suppress(GlmError):  # what it answers is another check's business
                host.call("plugin", stage, source=source)
    watchdog.cancel()
    finish(
        heavy_at_import=heavy_at_import,
        heavy_in_descriptions=[name for name in heavy_so_far if name not in heavy_at_import],
        heavy_in_identification=[name for name in _list_heavy_packages() if name not in heavy_so_far],
        effects=list(_find_effects(before, environment, threads)),
    )


def _list_heavy_packages() -> list[str]:
    return [name for name in HEAVY if name in sys.modules]


def _observe() -> dict[str, object]:
    """Return what a plugin has no business to change, by its name in a sentence."""
    root = logging.getLogger()
    return {
        "the working directory": os.getcwd(),
        "the locale": locale.setlocale(locale.LC_ALL),
        "the root logger": (root.level, list(root.handlers)),
        "a standard stream": (sys.stdin, sys.stdout, sys.stderr),
        "a standard file descriptor": [os.fstat(number)[:3] for number in range(3)],
        "a signal handler": [signal.getsignal(number) for number in sorted(signal.valid_signals())],
    }


def _find_effects(
    before: dict[str, object], environment: dict[str, str], threads: set[threading.Thread]
) -> Iterator[str]:
    after = _observe()
    yield from (f"changes {what}" for what, value in before.items() if after[what] != value)
    names = {**environment, **os.environ}
    changed = sorted(name for name in names if os.environ.get(name) != environment.get(name))
    if changed:
        yield f"changes the environment variables {', '.join(changed)}"
    if any(not thread.daemon for thread in set(threading.enumerate()) - threads):
        yield "starts a thread that is no daemon and may keep commands from ending"


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), float(sys.argv[3]))
