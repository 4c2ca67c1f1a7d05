"""Define what a check is, list all checks, and run and report one."""

from __future__ import annotations

import contextlib
import importlib
import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from glm_core.errors import GlmError

from ..driver import FrontendGoneError
from ._outcomes import BrokenError, BrokenPromiseError, NotApplicableError

if TYPE_CHECKING:
    from .subject import Subject

DOCUMENT = "docs/plugins/promises.md"
EVERY_PLUGIN = "every plugin"
"""Instead of a hook's name: a check that every plugin must pass."""


@dataclass(frozen=True)
class Check:
    """One promise and the function that looks whether it is kept.

    Attributes:
        name: short name, and anchor in the document.
        promise: what is promised, as a clause.
        hooks: the check concerns plugins that answer any of these.
        function: raises `BrokenError` or `NotApplicableError`, or returns.
    """

    name: str
    promise: str
    hooks: tuple[str, ...]
    function: Callable[[Subject], None]

    @property
    def documented(self) -> str:
        """Return where the promise is written down."""
        return f"{DOCUMENT}#{self.name}"

    def is_made_by(self, hooks: Iterable[str]) -> bool:
        """Return whether a plugin that answers ``hooks`` makes this promise."""
        return EVERY_PLUGIN in self.hooks or not set(self.hooks).isdisjoint(hooks)

    def run(self, subject: Subject) -> None:
        """Check that ``subject`` keeps the promise.

        The check works on a thread of its own, since a broken plugin may never return.

        Raises:
            BrokenPromiseError: it does not; what a plugin raised is the ``__cause__``.
            NotApplicableError: there is nothing to look at.
        """
        failure: list[BaseException] = []

        def call_check() -> None:
            try:
                self.function(subject)
            except BaseException as error:  # handed to the caller's thread
                failure.append(error)

        thread = threading.Thread(target=call_check, daemon=True, name=f"glm-check-{self.name}")
        thread.start()
        thread.join(subject.time_limit)
        if thread.is_alive():
            raise BrokenPromiseError(
                self._describe_breach(f"nothing came back within {subject.time_limit:g} seconds")
            )
        if not failure:
            return
        error = failure[0]
        if isinstance(error, NotApplicableError):
            raise NotApplicableError(str(error))
        with contextlib.suppress(Exception):  # of a broken plugin; the next check starts afresh
            subject.close()
        if isinstance(error, BrokenError):
            raise BrokenPromiseError(self._describe_breach(str(error))) from error.__cause__
        text = (
            str(error)
            if isinstance(error, (GlmError, FrontendGoneError))
            else f"{type(error).__name__}: {error}"
        )
        raise BrokenPromiseError(self._describe_breach(text)) from error

    def _describe_breach(self, what: str) -> str:
        return f'promise "{self.promise}" ({self.documented}) is broken: {what}'


_MODULES = (
    "_plugin_checks",
    "_lifecycle_checks",
    "_answer_checks",
    "_cancel_checks",
    "_adapter_checks",
    "_checkpoint_checks",
    "_frontend_checks",
    "_training_checks",
)
_CHECKS: dict[str, Check] = {}


def check(
    name: str, promise: str, *hooks: str
) -> Callable[[Callable[[Subject], None]], Callable[[Subject], None]]:
    """Return a decorator that puts a function into the list of checks.

    Args:
        name: short name, and anchor in the document.
        promise: what is promised, as a clause.
        hooks: hooks whose plugins must pass it; none = every plugin.
    """

    def register(function: Callable[[Subject], None]) -> Callable[[Subject], None]:
        if name in _CHECKS:
            raise ValueError(f"two checks are called {name!r}")
        _CHECKS[name] = Check(name, promise, hooks or (EVERY_PLUGIN,), function)
        return function

    return register


def list_checks() -> tuple[Check, ...]:
    """Return every check, in the order of the document."""
    for module in _MODULES:  # each registers its checks; here, because they import this module
        importlib.import_module(f".{module}", __package__)
    return tuple(_CHECKS.values())


def checks_for(subject: Subject) -> list[Check]:
    """Return the checks that concern a plugin, in the order of the document."""
    return [check for check in list_checks() if check.is_made_by(subject.hooks)]
