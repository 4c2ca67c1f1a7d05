"""Single questions: a topic's phrases set into sentence frames, then roughened as people type."""

from __future__ import annotations

import random
import re
from collections.abc import Mapping
from pathlib import Path

from grammar import Filler, Section, read_sections
from names import draw_characters, invent_word

TEXT = Path(__file__).parent / "text"
LANGUAGES = ("zh", "en")
TOPIC_FILES = {
    "zh": (
        "zh_software",
        "zh_software2",
        "zh_software3",
        "zh_software4",
        "zh_extra",
        "zh_talk",
        "out_of_scope_zh",
    ),
    "en": ("en_software", "en_software2", "en_software3", "en_extra", "en_talk", "out_of_scope_en"),
}
TALK = [
    "identity",
    "size",
    "maker",
    "capabilities",
    "greeting",
    "how_are_you",
    "thanks",
    "bye",
    "joke",
    "compliment",
    "complaint",
    "human",
    "language",
    "acknowledge",
    "oos",
    "oos_live",
    "oos_maths",
    "oos_create",
    "unclear",
]
# Questions that people put straight after a greeting.
GREETED = ("identity", "size", "maker", "capabilities", "how_are_you", "joke", "human", "language", "about")
# How often a topic is drawn, relative to 1 for a topic about the software.
WEIGHTS = {
    "oos": 4.0, "oos_live": 1.2, "oos_maths": 1.2, "oos_create": 1.6, "unclear": 0.7, "acknowledge": 0.6,
    "language": 0.5, "human": 0.8, "size": 0.6, "identity": 4.0, "greeting": 1.0, "thanks": 0.8, "bye": 0.7,
    "joke": 0.7, "compliment": 0.8, "complaint": 0.9, "how_are_you": 0.6, "upgrade": 0.6, "share": 0.6,
    "compat": 0.6, "sampling": 0.6, "safety": 0.5, "about": 0.7, "quantize": 1.6, "install": 1.3, "web": 1.2,
    "api": 1.3, "doctor": 1.3, "ptuning": 1.4, "device": 1.3,
}  # fmt: skip

_DOUBLED = {
    "run",
    "get",
    "set",
    "put",
    "plug",
    "chat",
    "stop",
    "split",
    "cut",
    "quit",
    "shut",
    "let",
    "begin",
    "map",
    "ship",
}
_ASCII_EDGE = re.compile(r"(?<=[一-鿿]) (?=[!-~])|(?<=[!-~]) (?=[一-鿿])")


class Questions:
    """Draws questions of every topic in both languages."""

    def __init__(self) -> None:
        self.frames = read_sections(TEXT / "frames.txt")
        self.topics: dict[str, dict[str, Section]] = {language: {} for language in LANGUAGES}
        for language, files in TOPIC_FILES.items():
            for name in files:
                for topic, section in read_sections(TEXT / f"{name}.txt").items():
                    if topic in self.topics[language]:
                        self.topics[language][topic].extend(section)
                    else:
                        self.topics[language][topic] = section
        self.names = list(self.topics["zh"])
        self.software = [name for name in self.names if name not in TALK]
        self._weights = [WEIGHTS.get(name, 1.0) for name in self.names]
        self._software_weights = [WEIGHTS.get(name, 1.0) for name in self.software]

    def draw_topic(self, rng: random.Random, *, software: bool = False) -> str:
        """Return a topic's name, by weight."""
        if software:
            return rng.choices(self.software, self._software_weights)[0]
        return rng.choices(self.names, self._weights)[0]

    def answer(self, topic: str, language: str, field: str = "answer") -> str:
        """Return the fixed answer; ``field`` ``next`` gives the one to "how do I do that?"."""
        return self.topics[language][topic].plain[field]

    def draw_short_name(self, rng: random.Random, topic: str, language: str) -> str:
        """Return a short name of the topic, as in "and the API?"."""
        return self._draw_phrase(rng, topic, language, "short")

    def draw_frame(
        self, rng: random.Random, language: str, field: str, slots: Mapping[str, Filler] | None = None
    ) -> str:
        """Return a frame that belongs to no topic, such as asking for a name."""
        return self.frames[language].phrases[field].draw(rng, slots)

    def ask(self, rng: random.Random, topic: str, language: str) -> str:
        """Return a complete question about ``topic``."""
        if topic == "unclear" and rng.random() < 0.5:
            return _draw_babble(rng, language)
        phrases = self.topics[language][topic].phrases
        kinds = [kind for kind in ("ask", "do", "case", "thing") if kind in phrases]
        weights = [{"ask": 1.3, "do": 1.4, "case": 0.9, "thing": 1.0}[kind] for kind in kinds]
        text = self.draw_core(rng, topic, language, rng.choices(kinds, weights)[0])
        if topic not in TALK and rng.random() < 0.07:
            text = self._draw_keywords(rng, topic, language)
        elif topic not in TALK and "case" in kinds and "do" in kinds and rng.random() < 0.08:
            case, do = (self.draw_core(rng, topic, language, kind) for kind in ("case", "do"))
            text = f"{case}，{do}" if language == "zh" else f"{case}, {do}"
        if topic in GREETED and rng.random() < 0.4:
            text = self.draw_frame(rng, language, "hello").replace("_", "") + text
        decorated = topic not in TALK or topic.startswith("oos")
        return self.roughen(rng, text, language, decorate=decorated)

    def draw_core(self, rng: random.Random, topic: str, language: str, kind: str) -> str:
        """Return a phrase of one kind in one of its frames, still neat."""
        if kind == "ask":
            return self._draw_phrase(rng, topic, language, "ask")
        slots = self.make_slots(topic, language)
        return self.draw_frame(rng, language, kind, slots)

    def make_slots(self, topic: str, language: str) -> dict[str, Filler]:
        """Return fillers for the slots of frames."""
        return {
            "do": lambda rng: self._draw_phrase(rng, topic, language, "do"),
            "doing": lambda rng: _make_gerund(self._draw_phrase(rng, topic, language, "do")),
            "thing": lambda rng: self._draw_phrase(rng, topic, language, "thing"),
            "case": lambda rng: self._draw_phrase(rng, topic, language, "case"),
        }

    def has(self, topic: str, language: str, field: str) -> bool:
        """Return whether the topic has phrases of this kind."""
        return field in self.topics[language][topic].phrases

    def roughen(self, rng: random.Random, text: str, language: str, *, decorate: bool = True) -> str:
        """Add fillers around the question, then misspell and punctuate it as people do."""
        frames = self.frames[language].phrases
        glue = "" if language == "zh" else " "
        if decorate:
            draw = rng.random()
            if draw < 0.14:
                text = frames["prefix"].draw(rng) + glue + text
            elif draw < 0.20:
                text = frames["context"].draw(rng) + glue + text
            if rng.random() < 0.10:
                suffix = frames["suffix"].draw(rng)
                text = text + suffix if language == "zh" or suffix.startswith(",") else f"{text} {suffix}"
        text = re.sub(r" {2,}", " ", text).strip()
        return _roughen_chinese(rng, text) if language == "zh" else _roughen_english(rng, text)

    def _draw_phrase(self, rng: random.Random, topic: str, language: str, field: str) -> str:
        slots = {"n": lambda rng: str(int(10 ** rng.uniform(0, 3.4))), "word": invent_word}
        text = self.topics[language][topic].phrases[field].draw(rng, slots)
        return re.sub(r" {2,}", " ", text).strip()

    def _draw_keywords(self, rng: random.Random, topic: str, language: str) -> str:
        """Return a few of the topic's own phrases in a row, as typed into a search box."""
        fields = [
            name for name in ("thing", "thing", "do", "short", "case") if self.has(topic, language, name)
        ]
        pieces = [
            self._draw_phrase(rng, topic, language, rng.choice(fields)) for _ in range(rng.choice((1, 2, 2)))
        ]
        return rng.choice((" ", " ", "，" if language == "zh" else ", ")).join(pieces)


def _draw_babble(rng: random.Random, language: str) -> str:
    if language == "zh":
        return draw_characters(rng, 1, 8)
    return " ".join(invent_word(rng) for _ in range(rng.randint(1, 4)))


def _make_gerund(phrase: str) -> str:
    """Turn "run it on a Mac" into "running it on a Mac"."""
    verb, space, rest = phrase.partition(" ")
    if verb in _DOUBLED:
        verb += verb[-1]
    elif verb.endswith("e") and not verb.endswith("ee"):
        verb = verb[:-1]
    return f"{verb}ing{space}{rest}"


def _roughen_chinese(rng: random.Random, text: str) -> str:
    for usual, rare, share in (
        ("怎么", "咋", 0.04),
        ("什么", "啥", 0.08),
        ("怎么", "怎样", 0.03),
        ("吗", "么", 0.08),
        ("，", " ", 0.1),
        ("，", ",", 0.1),
        ("，", "", 0.05),
    ):
        if usual in text and rng.random() < share:
            text = text.replace(usual, rare)
    if rng.random() < 0.5:
        text = _ASCII_EDGE.sub("", text)
    if rng.random() < 0.06:
        text = text.lower() if rng.random() < 0.7 else text.upper()
    if len(text) > 9 and rng.random() < 0.04:
        index = rng.randrange(len(text))
        text = text[:index] + text[index + 1 :]
    if text and text[-1] not in "？！。?!." and rng.random() < 0.5:
        text += rng.choices(("？", "。", "?", "！", "…", "？？", "."), (6, 1.5, 2.0, 0.5, 0.1, 0.2, 0.3))[0]
    return text


def _roughen_english(rng: random.Random, text: str) -> str:
    draw = rng.random()
    if draw < 0.48:
        text = text[:1].upper() + text[1:]
    elif draw < 0.66:
        text = text.lower()
    elif draw < 0.675:
        text = text.upper()
    if rng.random() < 0.06:
        text = re.sub(r"\b(a|an|the) ", "", text)
    if rng.random() < 0.06:
        text = text.replace("'", "")
    if len(text) > 12 and rng.random() < 0.08:
        text = _add_typo(rng, text)
    if text and text[-1] not in "?!." and rng.random() < 0.55:
        text += rng.choices(("?", ".", "!", "??", " ?"), (6, 2, 0.5, 0.2, 0.3))[0]
    return text


def _add_typo(rng: random.Random, text: str) -> str:
    index = rng.randrange(1, len(text) - 1)
    if rng.random() < 0.5:
        return text[:index] + text[index + 1 :]
    return text[:index] + text[index + 1] + text[index] + text[index + 2 :]
