"""The one word for "nobody said": `NOT_SET`, in settings, placements and arguments."""

from __future__ import annotations

from enum import Enum
from typing import Final, Literal


class NotSet(Enum):
    """The type of `NOT_SET`.

    An enumeration of one member, because type checkers narrow ``value is NOT_SET`` only for such.
    """

    NOT_SET = "not set"

    def __bool__(self) -> Literal[False]:
        """Return ``False``, so that ``value or default`` reads as it should."""
        return False

    def __repr__(self) -> str:
        """Return the name that users import."""
        return "NOT_SET"


NOT_SET: Final = NotSet.NOT_SET
"""Nobody said; whoever acts on the value decides.

The rule: a number, a mapping or a name that a user may leave out is `NOT_SET` where it is left out,
never 0, an empty text or ``None``, because those may be said (``top_k=0``) or are facts (a model that
*has* no directory). A choice among words has a word for it that users type: ``auto``, ``none``.
`Sampling` and `ChatRequest` have ``None`` instead: their fields come and go as JSON, whose word is null.
"""
