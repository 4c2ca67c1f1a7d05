"""``glm plugins``: what is installed, its version and hooks, and why something is not used."""

from __future__ import annotations

import dataclasses

from .._conflicts import name_conflicts
from ..plugins import PluginHost, PluginReport, default_host
from .options import command_parser, print_json, print_table


def run(arguments: list[str]) -> int:
    """List the plugins; the exit status is 0 also when some are broken."""
    parser = command_parser("plugins", "List the installed plugins.")
    parser.add_argument("--json", action="store_true", help="as JSON")
    parsed = parser.parse_args(arguments)
    host = default_host()
    reports = examined(host)
    if parsed.json:
        print_json([dataclasses.asdict(report) for report in reports])
        return 0
    rows = [
        (report.name, report.version, report.status, ", ".join(report.hooks) or report.reason)
        for report in reports
    ]
    if not rows:
        print("no plugins are installed; try: pip install glm-backend-cpu glm-frontend-cli glm-model-demo")
        return 0
    print_table(("plugin", "version", "status", "hooks, or why not"), rows)
    remarks = [f"  {report.name} {remark}" for report in reports for remark in report.remarks]
    if remarks:
        print("\n".join(["", "remarks:", *remarks]))
    return 0


def examined(host: PluginHost) -> tuple[PluginReport, ...]:
    """The reports once every plugin was asked what it is, with remarks on names that two of them claim."""
    conflicts = name_conflicts(host)
    return tuple(
        dataclasses.replace(report, remarks=(*report.remarks, *conflicts.get(report.name, ())))
        if report.status == "ok"
        else report
        for report in host.reports
    )
