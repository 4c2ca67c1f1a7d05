"""``glm plugins``: what is installed, its version and hooks, and why something is not used."""

from __future__ import annotations

import dataclasses

from ..plugins import PluginHost, default_host
from ..records import BackendInfo, FrontendInfo, ModelCard, TrainerInfo
from ._options import command_parser, print_json, print_table


def run(arguments: list[str]) -> int:
    """List the plugins; the exit status is 0 also when some are broken."""
    parser = command_parser("plugins", "List the installed plugins.")
    parser.add_argument("--json", action="store_true", help="as JSON")
    parsed = parser.parse_args(arguments)
    host = default_host()
    ask_all_to_describe(host)
    if parsed.json:
        print_json([dataclasses.asdict(report) for report in host.reports])
        return 0
    rows = [
        (report.name, report.version, report.status, ", ".join(report.hooks) or report.reason)
        for report in host.reports
    ]
    if not rows:
        print("no plugins are installed; try: pip install glm-backend-cpu glm-frontend-cli glm-model-demo")
        return 0
    print_table(("plugin", "version", "status", "hooks, or why not"), rows)
    return 0


def ask_all_to_describe(host: PluginHost) -> None:
    """Find the plugins that load and then fail to say what they are."""
    host.describe("describe_backend", BackendInfo)
    host.describe("describe_frontend", FrontendInfo)
    host.describe("describe_trainer", TrainerInfo)
    host.describe_many("describe_models", ModelCard)
