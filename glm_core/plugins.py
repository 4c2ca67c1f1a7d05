"""Find plugins, load them one by one, and call one hook of one plugin.

One broken plugin never breaks a command: what cannot be imported, was written for another API
version, misspells a hook or takes another's name is left out and reported with its name, version
and reason. pluggy's own loader would stop at the first of them. With ``GLM_DEBUG=1`` the traceback
of each is logged.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal, TypeVar

import pluggy

from . import hookspecs
from ._hook_checks import check_description, check_hooks
from ._not_set import NOT_SET
from .candidates import Candidate, list_candidates
from .errors import GlmError, PluginError
from .hookspecs import PROJECT
from .isolation import PluginFailureError, divert_output, format_error, format_value, wrap_plugin_errors
from .tracing import keep_tracing, trace_call

__all__ = ["API_VERSION", "Candidate", "PluginHost", "PluginReport", "get_default_host", "list_candidates"]

API_VERSION = 2  # version of the hooks and records; a plugin module states it as ``GLM_API_VERSION``

Status = Literal["ok", "disabled", "broken", "incompatible"]
T = TypeVar("T")

_log = logging.getLogger("glm")


@dataclass(frozen=True)
class PluginReport:
    """What became of one plugin.

    Attributes:
        name: its entry point's name.
        distribution: the installed package that brought it.
        version: that package's version.
        status: ``"ok"`` if its hooks are used.
        reason: why not.
        hooks: the hooks it answers.
        remarks: what people should know of it although its hooks are used, such as names that it shares.
        seconds: how long ``import`` took, and the longest call of each ``describe_*`` hook.
    """

    name: str
    distribution: str
    version: str
    status: Status
    reason: str = ""
    hooks: tuple[str, ...] = ()
    remarks: tuple[str, ...] = ()
    seconds: Mapping[str, float] = field(default_factory=dict)


class PluginHost:
    """The loaded plugins, and reports on all.

    Args:
        candidates: what may be loaded.
        allow: only these names, if given; decided before anything is imported.
        deny: never these names; likewise.
    """

    def __init__(
        self, candidates: Iterable[Candidate], *, allow: Iterable[str] | None = None, deny: Iterable[str] = ()
    ) -> None:
        self._manager = _make_manager()
        allowed, denied = None if allow is None else frozenset(allow), frozenset(deny)
        self._reports = [self._admit(candidate, allowed, denied) for candidate in candidates]

    @property
    def reports(self) -> tuple[PluginReport, ...]:
        """Return what became of every candidate, in their order."""
        return tuple(self._reports)

    def describe_unused(self) -> str:
        """Return an end for messages about something missing: which installed plugins are not used."""
        names = [report.name for report in self.reports if report.status != "ok"]
        return f" (Installed, but not used: {', '.join(names)}; glm plugins says why.)" if names else ""

    def list_answering(self, hook: str) -> tuple[str, ...]:
        """Return the names of the loaded plugins that implement ``hook``, sorted."""
        return tuple(sorted(report.name for report in self.reports if hook in report.hooks))

    def find_distribution(self, plugin: str) -> str:
        """Return the name of the package that brought a plugin; empty if the plugin is not used."""
        return self._used[plugin].distribution if plugin in self._used else ""

    @property
    def _used(self) -> dict[str, PluginReport]:
        return {report.name: report for report in self._reports if report.status == "ok"}

    def call(self, plugin: str, hook: str, **arguments: Any) -> Any:
        """Call ``hook`` on one plugin and no other; return its answer, ``None`` if it declined.

        Raises:
            GlmError: as the plugin raised it.
            PluginError: the plugin raised anything else; the original is its ``__cause__``.
        """
        others = [module for name, module in self._manager.list_name_plugin() if name != plugin]
        caller = self._manager.subset_hook_caller(hook, remove_plugins=others)
        with wrap_plugin_errors(plugin, hook), trace_call(plugin, hook) as outcome:
            answer = caller(**arguments)
            if hook.startswith("describe_"):  # these collect the answers of all plugins, here of one
                answer = answer[0] if answer else None
            outcome.note_answer(answer)
        return answer

    def describe(self, hook: str, record: type[T]) -> dict[str, T]:
        """Ask every plugin a ``describe_*`` hook that is answered with one record.

        A plugin that raises or answers with something else than a ``record`` is reported as broken
        and left out.

        Returns:
            The answers by plugin name, sorted.
        """
        return {name: member for name, (member,) in self._describe(hook, record, many=False).items()}

    def describe_many(self, hook: str, record: type[T]) -> dict[str, tuple[T, ...]]:
        """Like `describe`, for a hook that is answered with a tuple of records."""
        return self._describe(hook, record, many=True)

    def _describe(self, hook: str, record: type[T], *, many: bool) -> dict[str, tuple[T, ...]]:
        answers: dict[str, tuple[T, ...]] = {}
        for name in self.list_answering(hook):
            try:
                with _contain(name, hook) as seconds:
                    answer = self.call(name, hook)
                    members = answer if many else (answer,)
                    is_list = isinstance(members, (tuple, list))
                    if not is_list or not all(isinstance(member, record) for member in members):
                        expected = f"a tuple of {record.__name__}" if many else f"one {record.__name__}"
                        raise PluginError(f"returned {format_value(answer)}; {expected} is expected")
                    for member in members:
                        check_description(member, self._used[name].hooks)
            except GlmError as error:
                _log.debug("plugin %s: %s", name, hook, exc_info=error)
                if self._manager.has_plugin(name):  # another thread may have been first
                    self._manager.unregister(name=name)
                self._change(name, status="broken", reason=_shorten_reason(hook, error), hooks=())
            else:
                answers[name] = tuple(members)
                known = self._used[name].seconds if name in self._used else {}  # broken for another thread
                self._change(name, seconds={**known, hook: max(seconds[0], known.get(hook, 0.0))})
        return answers

    def _admit(
        self, candidate: Candidate, allowed: frozenset[str] | None, denied: frozenset[str]
    ) -> PluginReport:
        report = PluginReport(candidate.name, candidate.distribution, candidate.version, "ok")
        if allowed is not None and candidate.name not in allowed:
            return replace(report, status="disabled", reason="not listed in GLM_PLUGINS")
        if candidate.name in denied:
            return replace(report, status="disabled", reason="listed in GLM_DISABLE_PLUGINS")
        if self._manager.has_plugin(candidate.name):
            reason = f"another plugin is already called {candidate.name!r}"
            return replace(report, status="broken", reason=reason)
        try:
            with _contain(candidate.name, "import") as seconds:
                module, hooks = _load(candidate)
                if self._manager.is_registered(module):
                    raise PluginError(f"is the same module as plugin {self._manager.get_name(module)!r}")
                self._manager.register(module, name=candidate.name)
        except _OtherVersionError as error:
            return replace(report, status="incompatible", reason=str(error))
        except GlmError as error:
            _log.debug("plugin %s", candidate.name, exc_info=error)
            return replace(report, status="broken", reason=_shorten_reason("import", error))
        return replace(report, hooks=hooks, seconds={"import": seconds[0]})

    def _change(self, name: str, **fields: Any) -> None:
        for index, report in enumerate(self._reports):
            if report.name == name and report.status == "ok":
                self._reports[index] = replace(report, **fields)


class _OtherVersionError(PluginError):
    """A plugin was written for another version of the hooks."""


def _make_manager() -> pluggy.PluginManager:
    manager = pluggy.PluginManager(PROJECT)
    manager.add_hookspecs(hookspecs)
    return manager


@contextlib.contextmanager
def _contain(plugin: str, what: str) -> Iterator[list[float]]:
    """Run what core itself asks of every plugin: contained, its output kept out of results, measured.

    Yields:
        A list that holds the seconds that the block took, once it is left.
    """
    seconds: list[float] = []
    started = time.perf_counter()
    try:
        with wrap_plugin_errors(plugin, what), divert_output():
            yield seconds
    except KeyboardInterrupt:  # the user's, who may have waited long and not know for whom
        _log.warning(
            "glm: interrupted in %s of plugin %s; GLM_DISABLE_PLUGINS=%s leaves it out", what, plugin, plugin
        )
        raise
    seconds.append(time.perf_counter() - started)


def _shorten_reason(what: str, error: GlmError) -> str:
    """Return the reason of a report, which names the plugin already."""
    if isinstance(error, PluginFailureError) and error.__cause__ is not None:
        return f"{what} failed: {format_error(error.__cause__)}"
    return str(error) if what == "import" else f"{what}: {error}"


def _load(candidate: Candidate) -> tuple[object, tuple[str, ...]]:
    """Import a plugin and check its version and hooks; return its module and the names of its hooks."""
    with trace_call(candidate.name, "import") as outcome:
        module = candidate.load()
        version = getattr(module, "GLM_API_VERSION", None)
        outcome.text = f"API version {format_value(version)}"
    if version != API_VERSION:
        raise _OtherVersionError(_explain_version(version))
    return module, check_hooks(module, _make_manager())


def _explain_version(version: object) -> str:
    if version is None:
        return f"states no GLM_API_VERSION; this glm-core speaks version {API_VERSION}"
    older = isinstance(version, int) and version < API_VERSION
    return (
        f"was written for API version {format_value(version)}; this glm-core speaks version {API_VERSION}. "
        f"Install a {'newer' if older else 'matching'} version of it; what its author changes is in "
        "docs/plugins/compatibility.md"
    )


@functools.cache
def get_default_host() -> PluginHost:
    """Return the installed plugins, as the environment allows them; loaded once per process."""
    from .config import is_switched_on, load_settings

    settings, candidates = load_settings(), list_candidates()
    if is_switched_on("GLM_TRACE_HOOKS"):
        keep_tracing()
    allow = None if settings.plugins is NOT_SET else settings.plugins
    unknown = {*(allow or ()), *settings.disable_plugins} - {candidate.name for candidate in candidates}
    if unknown:  # a misspelt name would let in what was to be kept out, or keep out what was meant
        names = ", ".join(format_value(name) for name in sorted(unknown))
        _log.warning("glm: GLM_PLUGINS or GLM_DISABLE_PLUGINS: no such plugin: %s; see glm plugins", names)
    return PluginHost(candidates, allow=allow, deny=settings.disable_plugins)
