"""The small grammar in which the training text is written, and its random expansion.

A text file holds sections, fields and phrases::

    [web]                          a section, here one topic
    answer = Run `glm run web`.    plain text, taken as it stands
    ask = open (the/a) page | ...  phrases, separated by ``|``

Inside a phrase ``(a/b/c)`` is a choice, ``(a/b/)`` one that may be empty, and ``{name}`` a slot that
the caller fills. Choices do not nest.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

PLAIN_FIELDS = ("answer", "next")

_CHOICE = re.compile(r"\(([^()]*)\)")
_SLOT = re.compile(r"\{(\w+)\}")

Filler = Callable[[random.Random], str]


@dataclass(frozen=True)
class Phrase:
    """One phrase: literal text and choices in turn, and how often to draw it."""

    parts: tuple[tuple[str, ...], ...]
    weight: float

    @classmethod
    def parse(cls, text: str) -> Phrase:
        """Read ``text``; richer phrases get more weight, but less than in proportion."""
        parts: list[tuple[str, ...]] = []
        count = 1
        for index, piece in enumerate(_CHOICE.split(text)):
            if index % 2:
                # A bar only groups for the reader; an empty choice is written with a slash.
                groups = [group for group in piece.split("|") if group]
                choices = tuple(choice for group in groups for choice in group.split("/"))
                count *= len(choices)
                parts.append(choices)
            elif piece:
                parts.append((piece,))
        return cls(tuple(parts), min(count, 2000) ** 0.55)

    def expand(self, rng: random.Random) -> str:
        """Return one random wording."""
        return "".join(rng.choice(choices) for choices in self.parts).strip()


@dataclass
class Phrases:
    """Phrases of one field, drawn by weight."""

    items: list[Phrase] = field(default_factory=list)
    weights: list[float] = field(default_factory=list)

    def add(self, text: str) -> None:
        """Add every phrase of a field's text."""
        for item in _split(text):
            phrase = Phrase.parse(item)
            self.items.append(phrase)
            self.weights.append(phrase.weight)

    def extend(self, other: Phrases) -> None:
        """Add the phrases of another file."""
        self.items += other.items
        self.weights += other.weights

    def draw(self, rng: random.Random, slots: Mapping[str, Filler] | None = None) -> str:
        """Return a random wording with its slots filled; unknown slots stay."""
        text = rng.choices(self.items, self.weights)[0].expand(rng)
        return _SLOT.sub(lambda slot: slots[slot[1]](rng) if slots and slot[1] in slots else slot[0], text)

    def __bool__(self) -> bool:
        return bool(self.items)


@dataclass
class Section:
    """One section of a text file."""

    name: str
    plain: dict[str, str] = field(default_factory=dict)
    phrases: dict[str, Phrases] = field(default_factory=dict)

    def extend(self, other: Section) -> None:
        """Add what another file says about the same topic."""
        self.plain.update(other.plain)
        for name, phrases in other.phrases.items():
            self.phrases.setdefault(name, Phrases()).extend(phrases)


def read_sections(path: Path) -> dict[str, Section]:
    """Read a text file.

    Raises:
        ValueError: a line is neither a section, a field nor a comment.
    """
    sections: dict[str, Section] = {}
    current = None
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        if not line.strip() or line.startswith("#"):
            continue
        if line.startswith("["):
            current = sections.setdefault(line.strip("[] "), Section(line.strip("[] ")))
            continue
        name, equals, text = line.partition(" = ")
        if current is None or not equals:
            raise ValueError(
                f"{path.name}:{number}: expected '[section]' or 'field = text', found {line[:40]!r}"
            )
        if name in PLAIN_FIELDS:
            current.plain[name] = text.strip()
        else:
            current.phrases.setdefault(name, Phrases()).add(text)
    return sections


def _split(text: str) -> list[str]:
    """Cut at the bars outside parentheses."""
    items, depth, start = [], 0, 0
    for index, character in enumerate(text):
        depth += (character == "(") - (character == ")")
        if character == "|" and depth == 0:
            items.append(text[start:index].strip())
            start = index + 1
    if depth:
        raise ValueError(f"unbalanced parentheses in {text[:60]!r}")
    items.append(text[start:].strip())
    return [item for item in items if item]
