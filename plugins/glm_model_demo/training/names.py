"""Names and other words to be copied: real ones, and invented ones so that copying generalises."""

from __future__ import annotations

import random
from pathlib import Path


def _read_word_lists() -> dict[str, tuple[str, ...]]:
    lines = (Path(__file__).parent / "text/names.txt").read_text(encoding="utf-8").splitlines()
    pairs = (line.split(" = ") for line in lines if " = " in line)
    return {name: tuple(words.split()) for name, words in pairs}


WORDS = _read_word_lists()


def list_common_characters() -> str:
    """Return the 3,755 common Chinese characters: the first level of the GB 2312 standard."""
    codes = (bytes((high, low)) for high in range(0xB0, 0xD8) for low in range(0xA1, 0xFF))
    return "".join(code.decode("gb2312", errors="ignore") for code in codes)


COMMON_CHARACTERS = list_common_characters()


def draw_characters(rng: random.Random, low: int, high: int) -> str:
    """Return a few characters without sense, so that every common one is seen."""
    return "".join(rng.choice(COMMON_CHARACTERS) for _ in range(rng.randint(low, high)))


def invent_word(rng: random.Random, low: int = 2, high: int = 3) -> str:
    """Return a pronounceable word that means nothing."""
    return "".join(
        rng.choice(WORDS["onsets"]) + rng.choice(WORDS["rimes"]) for _ in range(rng.randint(low, high))
    )


def draw_chinese_name(rng: random.Random) -> str:
    """Return a full name, a nickname, a title, or characters at random."""
    kind = rng.random()
    surname = rng.choice(WORDS["compound_surnames"]) if rng.random() < 0.06 else rng.choice(WORDS["surnames"])
    if kind < 0.40:
        return surname + "".join(rng.choice(WORDS["given"]) for _ in range(rng.choice((1, 2, 2))))
    if kind < 0.62:
        return surname + draw_characters(rng, 1, 2)
    if kind < 0.70:
        return rng.choice(WORDS["nicknames"])
    if kind < 0.80:
        return rng.choice(WORDS["nickname_heads"]) + rng.choice(
            (rng.choice(WORDS["surnames"]), rng.choice(WORDS["given"]), draw_characters(rng, 1, 1))
        )
    if kind < 0.86:
        return surname + rng.choice(WORDS["titles"])
    return draw_characters(rng, 2, 3)


def draw_english_name(rng: random.Random) -> str:
    """Return a first name, two words, pinyin, or an invented word; sometimes not capitalised."""
    kind = rng.random()
    if kind < 0.38:
        name = rng.choice(WORDS["english"])
    elif kind < 0.45:
        name = f"{rng.choice(WORDS['english'])} {rng.choice(WORDS['english'])}"
    elif kind < 0.52:
        name = f"{rng.choice(WORDS['pinyin'])} {rng.choice(WORDS['pinyin'])}"
    elif kind < 0.55:
        name = rng.choice(WORDS["pinyin"]) + rng.choice(WORDS["pinyin"]).lower()
    else:
        name = invent_word(rng, 1, 3).capitalize()
    return name.lower() if rng.random() < 0.12 else name


def draw_name(rng: random.Random, language: str) -> str:
    """Return a name, mostly of the conversation's own language."""
    own = rng.random() < (0.65 if language == "zh" else 0.9)
    return draw_chinese_name(rng) if own == (language == "zh") else draw_english_name(rng)


def draw_fact_value(rng: random.Random, kind: str, language: str) -> str:
    """Return what somebody lives in, calls a cat or likes."""
    if rng.random() < 0.4:
        return draw_characters(rng, 2, 3) if language == "zh" else invent_word(rng).capitalize()
    if kind == "cat":
        return draw_name(rng, language)
    cities, likes = (
        (WORDS["cities_zh"], WORDS["likes_zh"])
        if language == "zh"
        else (WORDS["cities_en"], WORDS["likes_en"])
    )
    return rng.choice(cities if kind == "city" else likes)
