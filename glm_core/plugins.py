"""Finding plugins, loading them one by one, and calling one hook of one plugin.

One broken plugin never breaks a command: what cannot be imported, hangs while importing, was
written for another API version, misspells a hook or takes another's name is left out and
reported with its name, version and reason. pluggy's own loader would stop at the first of them.
With ``GLM_DEBUG=1`` the traceback of each is logged.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any, Literal, TypeVar

import pluggy

from . import hookspecs
from ._candidates import Candidate, installed_candidates
from ._hook_checks import check_hooks
from ._isolation import TookTooLongError, said, shown, side_effects, within
from ._not_set import NOT_SET
from ._tracing import trace_from_now_on, traced, write
from .errors import GlmError, PluginError
from .hookspecs import PROJECT

__all__ = ["API_VERSION", "Candidate", "PluginHost", "PluginReport", "default_host", "installed_candidates"]

API_VERSION = 2
"""Version of the hooks and records; a plugin module states it as ``GLM_API_VERSION``."""

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
        remarks: what it does that it should not, although its hooks are used.
    """

    name: str
    distribution: str
    version: str
    status: Status
    reason: str = ""
    hooks: tuple[str, ...] = ()
    remarks: tuple[str, ...] = ()


class PluginHost:
    """The loaded plugins and what became of the others.

    Args:
        candidates: what may be loaded.
        allow: only these names, if given; decided before anything is imported.
        deny: never these names; likewise.
        time_limit: seconds that one import or one ``describe_*`` call may take.
    """

    def __init__(
        self,
        candidates: Iterable[Candidate],
        *,
        allow: Iterable[str] | None = None,
        deny: Iterable[str] = (),
        time_limit: float = 10.0,
    ) -> None:
        self._manager = _new_manager()
        self._reports: dict[int, PluginReport] = {}
        self._time_limit = time_limit
        allowed = None if allow is None else frozenset(allow)
        denied = frozenset(deny)
        for index, candidate in enumerate(candidates):
            self._reports[index] = self._admit(candidate, allowed, denied)

    @property
    def reports(self) -> tuple[PluginReport, ...]:
        """What became of every candidate, in their order."""
        return tuple(self._reports.values())

    def unused(self) -> str:
        """A remark on plugins that are installed and not used, to end a message about something missing."""
        names = [report.name for report in self.reports if report.status != "ok"]
        return f" (Installed, but not used: {', '.join(names)}; glm plugins says why.)" if names else ""

    def with_status(self, status: Status) -> tuple[str, ...]:
        """Return the names of the plugins of which this became, as far as that is known by now."""
        return tuple(report.name for report in self.reports if report.status == status)

    def answering(self, hook: str) -> tuple[str, ...]:
        """Names of the loaded plugins that implement ``hook``, sorted."""
        return tuple(sorted(report.name for report in self.reports if hook in report.hooks))

    def call(self, plugin: str, hook: str, **arguments: Any) -> Any:
        """Call ``hook`` on one plugin and no other; its answer, ``None`` if it declined.

        Raises:
            GlmError: as the plugin raised it.
            PluginError: the plugin raised anything else; the original is its ``__cause__``.
        """
        others = [module for name, module in self._manager.list_name_plugin() if name != plugin]
        caller = self._manager.subset_hook_caller(hook, remove_plugins=others)
        try:
            with traced(plugin, hook) as outcome:
                answer = caller(**arguments)
                if hook.startswith("describe_"):  # these collect the answers of all plugins, here of one
                    answer = answer[0] if answer else None
                outcome.answered(answer)
        except (GlmError, KeyboardInterrupt):  # for the user, and by the user
            raise
        except BaseException as error:  # whatever the plugin does, it is named as the cause
            raise _failure(plugin, hook, error) from error
        return answer

    def describe(self, hook: str, record: type[T]) -> dict[str, T]:
        """Ask every plugin a ``describe_*`` hook that is answered with one record.

        A plugin that raises, takes too long or answers with something else than a ``record`` is
        reported as broken and left out.

        Returns:
            The answers by plugin name, sorted.
        """

        def check(answer: object) -> T:
            if isinstance(answer, record):
                return answer
            raise PluginError(f"returned {shown(answer)}; one {record.__name__} is expected")

        return self._describe(hook, check)

    def describe_many(self, hook: str, record: type[T]) -> dict[str, tuple[T, ...]]:
        """Like `describe`, for a hook that is answered with a tuple of records."""

        def check(answer: object) -> tuple[T, ...]:
            if isinstance(answer, (tuple, list)):
                members = tuple(member for member in answer if isinstance(member, record))
                if len(members) == len(answer):
                    return members
            raise PluginError(f"returned {shown(answer)}; a tuple of {record.__name__} is expected")

        return self._describe(hook, check)

    def _describe(self, hook: str, check: Callable[[object], T]) -> dict[str, T]:
        answers: dict[str, T] = {}
        for name in self.answering(hook):

            def ask(name: str = name) -> T:
                try:
                    return check(self.call(name, hook))
                except GlmError:
                    raise
                except BaseException as error:  # on the plugin's own thread an interrupt is not the user's
                    raise _failure(name, hook, error) from error

            try:
                with side_effects(importing=False) as remarks:
                    answers[name] = within(self._time_limit, ask)
            except (GlmError, TookTooLongError) as error:
                _log.debug("plugin %s: %s", name, hook, exc_info=error)
                if isinstance(error, TookTooLongError):
                    write(name, hook, self._time_limit, "left behind")
                self._mark_broken(name, f"{hook}: {error}")
            else:
                self._remark(name, remarks)
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
            return replace(
                report, status="broken", reason=f"another plugin is already called {candidate.name!r}"
            )
        try:
            with side_effects(importing=True) as remarks:
                module, hooks = within(self._time_limit, functools.partial(_load, candidate))
            if self._manager.is_registered(module):
                raise PluginError(f"is the same module as plugin {self._manager.get_name(module)!r}")
            self._manager.register(module, name=candidate.name)
        except TookTooLongError as error:
            write(candidate.name, "import", self._time_limit, "left behind")
            return replace(report, status="broken", reason=f"import {error}")
        except _OtherVersionError as error:
            return replace(report, status="incompatible", reason=str(error))
        except Exception as error:  # whatever a module holds, it must not break a command
            _log.debug("plugin %s", candidate.name, exc_info=error)
            reason = str(error) if isinstance(error, PluginError) else said(error)
            return replace(report, status="broken", reason=reason)
        return replace(report, hooks=hooks, remarks=tuple(remarks))

    def _mark_broken(self, name: str, reason: str) -> None:
        if self._manager.has_plugin(name):  # another thread may have been first
            self._manager.unregister(name=name)
        self._change(name, status="broken", reason=reason, hooks=())

    def _remark(self, name: str, remarks: Iterable[str]) -> None:
        known = next(report.remarks for report in self.reports if report.name == name and report.hooks)
        new = tuple(remark for remark in remarks if remark not in known)
        if new:
            self._change(name, remarks=(*known, *new))

    def _change(self, name: str, **fields: Any) -> None:
        for index, report in self._reports.items():
            if report.name == name and report.status == "ok":
                self._reports[index] = replace(report, **fields)


class _OtherVersionError(PluginError):
    """A plugin was written for another version of the hooks."""


def _new_manager() -> pluggy.PluginManager:
    manager = pluggy.PluginManager(PROJECT)
    manager.add_hookspecs(hookspecs)
    return manager


def _failure(plugin: str, hook: str, error: BaseException) -> PluginError:
    return PluginError(
        f"plugin {plugin!r} failed in {hook}: {said(error)}. "
        f"Report this to its author, or run with GLM_DISABLE_PLUGINS={plugin}."
    )


def _load(candidate: Candidate) -> tuple[object, tuple[str, ...]]:
    """The plugin's module and its hooks; runs on a thread of the plugin's own."""
    try:
        with traced(candidate.name, "import") as outcome:
            module = candidate.load()
            version = getattr(module, "GLM_API_VERSION", None)
            outcome.text = f"API version {shown(version)}"
    except BaseException as error:  # on this thread also an exit or interrupt is the plugin's
        raise PluginError(f"import failed: {said(error)}") from error
    try:
        if version != API_VERSION:
            raise _OtherVersionError(_version_mismatch(version))
        return module, check_hooks(module, _new_manager())
    except PluginError:
        raise
    except BaseException as error:  # an object in the place of a module may do anything when looked at
        raise PluginError(said(error)) from error


def _version_mismatch(version: object) -> str:
    if version is None:
        return f"states no GLM_API_VERSION; this glm-core speaks version {API_VERSION}"
    older = isinstance(version, int) and version < API_VERSION
    return (
        f"was written for API version {version}; this glm-core speaks version {API_VERSION}. Install a "
        f"{'newer' if older else 'matching'} version of it; what its author changes is in "
        "docs/plugins/compatibility.md"
    )


@functools.cache
def default_host() -> PluginHost:
    """The installed plugins, as the environment allows them; loaded once per process."""
    from .config import load_settings, wants_hook_trace

    settings = load_settings()
    if wants_hook_trace():
        trace_from_now_on()
    return PluginHost(
        installed_candidates(),
        allow=None if settings.plugins is NOT_SET else settings.plugins,
        deny=settings.disable_plugins,
        time_limit=settings.plugin_time_limit,
    )
