"""Find out what importing a plugin does to a process, in one that may be spoilt.

Commands import plugins without any of this, so that a slow but honest one is never refused. The kit is
the place for strictness: it sees a plugin before its users do, and a fresh process for each plugin has
nothing to protect, needs no second thread, and survives even ``os._exit``.
"""

from __future__ import annotations

import functools
import json
import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_START_SECONDS = 120
"""What an interpreter may take to start and end on a busy machine, beside the plugin's own time."""


@dataclass(frozen=True)
class ImportReport:
    """What importing one plugin and asking what it is did.

    Attributes:
        failure: why that did not come to an end; empty if it did.
        heavy_at_import: heavy packages in memory after the import.
        heavy_in_descriptions: those that came with the ``describe_*`` hooks.
        heavy_in_identification: those that came with ``identify_model`` of models that are nobody's.
        effects: what it changed in the process, as ends of sentences: ``"changes the locale"``.
    """

    failure: str = ""
    heavy_at_import: tuple[str, ...] = ()
    heavy_in_descriptions: tuple[str, ...] = ()
    heavy_in_identification: tuple[str, ...] = ()
    effects: tuple[str, ...] = ()


@functools.cache
def examine_import(module_name: str, patience: float) -> ImportReport:
    """Return what importing a module does to a process of its own; looked at once.

    Args:
        module_name: the plugin's module.
        patience: seconds that the import and all descriptions together may take.
    """
    with tempfile.TemporaryDirectory(prefix="glm-conformance-") as folder:
        file = Path(folder) / "report.json"
        done = subprocess.run(  # noqa: S603  # this very interpreter
            [sys.executable, "-m", "glm_testing._import_process", module_name, str(file), str(patience)],
            env={**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=_START_SECONDS + patience,
            check=False,
        )
        if not file.exists():
            last = done.stderr.strip().splitlines()[-1:] or [f"status {done.returncode}"]
            return ImportReport(failure=f"it ends a process that imports it: {last[0]}")
        found: dict[str, Any] = json.loads(file.read_text("utf-8"))
    if done.stdout:
        printed = done.stdout.strip()[:80]
        found["effects"] = [f"prints to standard output: {printed!r}", *found.get("effects", ())]
    return ImportReport(**{name: _freeze(value) for name, value in found.items()})


def _freeze(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value
