"""Finding plugins, loading them one by one, and calling one hook of one plugin.

One broken plugin never breaks a command: what cannot be imported, hangs while importing, was
written for another API version, misspells a hook or takes another's name is left out and
reported with its name, version and reason. pluggy's own loader would stop at the first of them.
"""

from __future__ import annotations

import functools
import importlib
import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from importlib import metadata
from typing import Any, Literal, TypeVar

import pluggy

from . import hookspecs
from .errors import GlmError, PluginError
from .hookspecs import PROJECT

API_VERSION = 1
"""Version of the hooks and records; a plugin module states it as ``GLM_API_VERSION``."""

ENTRY_POINT_GROUP = "glm.plugins"

Status = Literal["ok", "disabled", "broken", "incompatible"]
T = TypeVar("T")


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
    """

    name: str
    distribution: str
    version: str
    status: Status
    reason: str = ""
    hooks: tuple[str, ...] = ()


@dataclass(frozen=True)
class Candidate:
    """A plugin that may be loaded: its name, its package, and how to get its module."""

    name: str
    distribution: str
    version: str
    load: Callable[[], object]


def installed_candidates() -> list[Candidate]:
    """Every plugin that the installed packages declare, sorted by name; nothing is imported."""
    found = [
        Candidate(
            point.name,
            point.dist.name if point.dist else "unknown",
            point.dist.version if point.dist else "unknown",
            functools.partial(importlib.import_module, point.module),
        )
        for point in metadata.entry_points(group=ENTRY_POINT_GROUP)
    ]
    return sorted(found, key=lambda candidate: (candidate.name, candidate.distribution))


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
            answer = caller(**arguments)
        except GlmError:
            raise
        except Exception as error:
            raise PluginError(
                f"plugin {plugin!r} failed in {hook}: {type(error).__name__}: {error}. "
                f"Report this to its author, or run with GLM_DISABLE_PLUGINS={plugin}."
            ) from error
        if isinstance(answer, list):  # describe_* hooks collect
            return answer[0] if answer else None
        return answer

    def describe(self, hook: str, record: type[T]) -> dict[str, T]:
        """Ask every plugin a ``describe_*`` hook; answers by plugin name.

        A plugin that raises, takes too long or answers with something else than ``record`` (or a
        tuple of it) is reported as broken and left out.
        """
        answers: dict[str, T] = {}
        for name in self.answering(hook):
            try:
                answer = _within(self._time_limit, functools.partial(self.call, name, hook))
                members = answer if isinstance(answer, tuple) else (answer,)
                wrong = next((member for member in members if not isinstance(member, record)), None)
                if wrong is not None or answer is None:
                    raise PluginError(f"{hook} returned {wrong!r}; {record.__name__} is expected")
            except (GlmError, TimeoutError) as error:
                self._mark_broken(name, f"{hook}: {error}")
            else:
                answers[name] = answer
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
            module = _within(self._time_limit, candidate.load)
        except TimeoutError as error:
            return replace(report, status="broken", reason=f"import {error}")
        except BaseException as error:  # whatever a module does while importing, SystemExit included
            return replace(report, status="broken", reason=f"import failed: {type(error).__name__}: {error}")
        version = getattr(module, "GLM_API_VERSION", None)
        if version != API_VERSION:
            return replace(report, status="incompatible", reason=_version_mismatch(version))
        try:
            hooks = _validated_hooks(module)
        except pluggy.PluginValidationError as error:
            return replace(report, status="broken", reason=" ".join(str(error).split()))
        self._manager.register(module, name=candidate.name)
        return replace(report, hooks=hooks)

    def _mark_broken(self, name: str, reason: str) -> None:
        self._manager.unregister(name=name)
        for index, report in self._reports.items():
            if report.name == name and report.status == "ok":
                self._reports[index] = replace(report, status="broken", reason=reason, hooks=())


def _new_manager() -> pluggy.PluginManager:
    manager = pluggy.PluginManager(PROJECT)
    manager.add_hookspecs(hookspecs)
    return manager


def _version_mismatch(version: object) -> str:
    if version is None:
        return f"states no GLM_API_VERSION; this glm-core speaks version {API_VERSION}"
    return (
        f"was written for API version {version}; this glm-core speaks version {API_VERSION}. "
        "Install a matching version of one of them."
    )


def _validated_hooks(module: object) -> tuple[str, ...]:
    """Register on a throw-away manager, so that a refused plugin leaves no trace on the real one."""
    trial = _new_manager()
    trial.register(module)
    trial.check_pending()  # catches a misspelt hook, which would otherwise just never be called
    return tuple(sorted(caller.name for caller in trial.get_hookcallers(module) or ()))


def _within(seconds: float, function: Callable[[], T]) -> T:
    """Run ``function`` on a thread of its own and wait at most ``seconds``.

    A thread cannot be stopped, so one that hangs is left behind as a daemon; it ends with the process.
    """
    outcome: list[T] = []
    failure: list[BaseException] = []

    def run() -> None:
        try:
            outcome.append(function())
        except BaseException as error:  # handed to the caller's thread
            failure.append(error)

    thread = threading.Thread(target=run, daemon=True, name="glm-plugin")
    thread.start()
    thread.join(seconds)
    if thread.is_alive():
        raise TimeoutError(f"took longer than {seconds:g} seconds and was left behind")
    if failure:
        raise failure[0]
    return outcome[0]


@functools.cache
def default_host() -> PluginHost:
    """The installed plugins, as the environment allows them; loaded once per process."""
    from .config import load_settings

    settings = load_settings()
    return PluginHost(
        installed_candidates(),
        allow=settings.plugins,
        deny=settings.disable_plugins,
        time_limit=settings.plugin_time_limit,
    )


