"""Check the reports of a long job one by one, as a plugin gives them."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from typing import Protocol, TypeVar

from glm_core.errors import PluginError
from glm_core.isolation import format_value, wrap_plugin_errors
from glm_core.tracing import trace_items


class _Report(Protocol):
    @property
    def finished(self) -> bool: ...


_END = object()
R = TypeVar("R", bound=_Report)


def check_progress(plugin: str, hook: str, reports: object, record: type[R]) -> Generator[R, None, None]:
    """Yield the same reports; whatever is wrong with them or raised between them names the plugin.

    Closing the iterator closes the plugin's own.

    Args:
        plugin: who answered.
        hook: ``train``, ``predict`` or ``quantize_checkpoint``.
        reports: what it returned.
        record: what each report must be.

    Raises:
        GlmError: as the plugin raised it.
        PluginError: the plugin raised anything else, gave something else than a ``record``, went on
            after the finished one or ended without it.
    """
    what = f"plugin {plugin!r}: {hook}"
    if not hasattr(reports, "__next__"):
        raise PluginError(
            f"{what} returned {format_value(reports)}, which is no iterator; report this to its author"
        )
    source = trace_items(plugin, hook, reports)
    return _check_each(what, plugin, hook, source, record)


def _check_each(
    what: str, plugin: str, hook: str, reports: Iterator[object], record: type[R]
) -> Generator[R, None, None]:
    finished = False
    try:
        while True:
            with wrap_plugin_errors(plugin, hook):
                report = next(reports, _END)
            if report is _END:
                break
            if not isinstance(report, record):
                raise PluginError(
                    f"{what} gave {format_value(report)}; {record.__name__} records are expected. "
                    "Report this to its author."
                )
            if finished:
                raise PluginError(f"{what} went on after being finished; report this to its author")
            finished = report.finished
            yield report
    finally:
        if (close := getattr(reports, "close", None)) is not None:
            with wrap_plugin_errors(plugin, "close"):
                close()
    if not finished:
        raise PluginError(f"{what} ended without being finished; report this to its author")
