"""Run in a process of its own: what importing one plugin, and its descriptions, do to the process.

Prints one JSON object: heavy packages in memory after the import, after the descriptions, and what
core remarked on meanwhile.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import sys

from glm_core._isolation import HEAVY
from glm_core.errors import GlmError
from glm_core.plugins import Candidate, PluginHost
from glm_core.records import BackendInfo, FrontendInfo, ModelCard, RuntimeInfo, TrainerInfo

DESCRIPTIONS = {
    "describe_backend": BackendInfo,
    "describe_frontend": FrontendInfo,
    "describe_runtime": RuntimeInfo,
    "describe_trainer": TrainerInfo,
}
"""Hooks that are answered with one record, and the record."""


def look_at(module_name: str) -> dict[str, list[str]]:
    """Load the plugin and ask for its descriptions; what it left behind."""
    host = PluginHost([Candidate("plugin", module_name, "", lambda: importlib.import_module(module_name))])
    imported = _heavy()
    with contextlib.suppress(GlmError):  # what they answer is another check's business
        for hook, record in DESCRIPTIONS.items():
            host.describe(hook, record)
        host.describe_many("describe_models", ModelCard)
    return {"imported": imported, "described": _heavy(), "remarks": list(host.reports[0].remarks)}


def _heavy() -> list[str]:
    return [name for name in HEAVY if name in sys.modules]


if __name__ == "__main__":
    print(json.dumps(look_at(sys.argv[1])))
