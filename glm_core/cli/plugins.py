"""``glm plugins``: what is installed, what is wrong with it, and which runtime would take a model."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar

from ..config import load_settings
from ..conflicts import Cards, find_name_conflicts
from ..errors import GlmError
from ..language import BilingualTexts, get_language
from ..pairing import Identification, choose_route, identify, list_placers
from ..plugins import PluginHost, PluginReport, get_default_host
from ..routing import resolve_settings
from ..survey import Survey, take_survey
from .options import make_command_parser, print_json, print_table


class _Texts(BilingualTexts):
    """What is said about a model and the runtimes."""

    table: ClassVar[Mapping[str, tuple[str, str]]] = {
        "runtime": ("运行时", "runtime"),
        "takes": ("能否加载", "takes it"),
        "kind": ("类型", "kind"),
        "devices": ("可用设备", "devices"),
        "reason": ("原因", "why"),
        "yes": ("是", "yes"),
        "no": ("否", "no"),
        "chosen": (
            "将使用：运行时 {runtime}，设备 {devices}",
            "would be taken: runtime {runtime} on {devices}",
        ),
        "refused": ("无法加载：{error}", "would be refused: {error}"),
    }


def run(arguments: list[str]) -> int:
    """List the plugins, or the runtimes and whether they take a model; 0 also when some are broken."""
    parser = make_command_parser("plugins", "List the installed plugins.")
    parser.add_argument(
        "--model", metavar="NAME_OR_PATH", help="say instead which runtime would take this model, and why"
    )
    parser.add_argument("--json", action="store_true", help="as JSON")
    parsed = parser.parse_args(arguments)
    host = get_default_host()
    if parsed.model is not None:
        return _explain_model(host, parsed.model, as_json=parsed.json)
    reports = examine_plugins(host)
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


def _explain_model(host: PluginHost, name: str, *, as_json: bool) -> int:
    """Print which runtimes know a model, where each could run it, and what the settings choose.

    A model that would have to be downloaded first is refused: to look must cost nothing.
    """
    settings = load_settings({"model": name, "offline": True})
    source = resolve_settings(host, settings)
    survey = take_survey(host)
    found = identify(survey, source)
    rows = _make_rows(survey, found)
    chosen: dict[str, Any] = {}
    refusal = ""
    try:
        named = found if settings.runtime == "auto" else identify(survey, source, settings.runtime)
        route = choose_route(survey, named, settings.device)
        chosen = {"runtime": survey.runtimes[route.runtime].name, "plugin": route.runtime}
        chosen |= {"placed_by": route.placer.plugin, "devices": [device.name for device in route.devices]}
    except GlmError as error:
        refusal = str(error)
    if as_json:
        print_json({"model": source.name, "chosen": chosen or None, "refusal": refusal, "runtimes": rows})
        return 0
    say = _Texts(get_language())
    print_table(
        [say(key) for key in ("runtime", "takes", "kind", "devices", "reason")],
        [
            (
                row["name"] if row["name"] == row["plugin"] else f"{row['name']} ({row['plugin']})",
                say("yes" if row["takes"] else "no"),
                row["kind"] or "-",
                ", ".join(row["devices"]) or "-",
                row["reason"],
            )
            for row in rows
        ],
    )
    devices = ", ".join(chosen.get("devices", ()))
    print()
    print(say("refused", error=refusal) if refusal else say("chosen", **{**chosen, "devices": devices}))
    return 0


def _make_rows(survey: Survey, identification: Identification) -> list[dict[str, Any]]:
    """Return, for each runtime, whether it knows the model, its available devices, and why (not)."""
    rows = []
    for plugin in identification.asked:
        match = identification.matches.get(plugin)
        placers = [] if match is None else list(list_placers(survey, plugin, match))
        devices = [device.name for placer in placers for device in placer.devices if device.available]
        rows.append(
            {
                "plugin": plugin,
                "name": survey.runtimes[plugin].name,
                "takes": match is not None,
                "kind": None if match is None else match.kind,
                "devices": list(dict.fromkeys(devices)),
                "reason": identification.explain_refusal(plugin) if match is None else match.reason,
            }
        )
    return rows


def examine_plugins(
    host: PluginHost, survey: Survey | None = None, cards: Cards | None = None
) -> tuple[PluginReport, ...]:
    """Return the reports once every plugin was asked what it is, with remarks on names that two claim."""
    conflicts = find_name_conflicts(host, survey, cards)
    return tuple(
        dataclasses.replace(report, remarks=(*report.remarks, *conflicts.get(report.name, ())))
        if report.status == "ok"
        else report
        for report in host.reports
    )
