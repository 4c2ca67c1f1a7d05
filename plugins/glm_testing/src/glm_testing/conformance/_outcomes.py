"""What a check ends with when the promise is not kept, or when there is nothing to look at."""

from __future__ import annotations


class BrokenPromiseError(AssertionError):
    """A plugin does not do what it must; the message names the promise and where it is documented."""


class NotApplicableError(Exception):
    """A check has nothing to look at here; the message says why."""


class BrokenError(Exception):
    """Raised by a check with what it saw; `Check.run` adds which promise that breaks."""


def expect(condition: object, what: str) -> None:
    """Raise `BrokenError` with ``what`` was seen, unless the condition holds."""
    if not condition:
        raise BrokenError(what)
