"""Does any file of a model, whatever stands in it, end in more than a sentence, or cost time or memory?

python benchmarks/fuzz_files.py [--examples 500] [--seed 0] [--family chatglm ...]

For each family a tiny model is copied and one of its files changed: a key of a JSON file set to a value of
any kind, or bytes put in, taken out or cut off. The copy is then loaded and asked as users do. Prints each
complaint, and as its last line JSON: how many answered, were refused, failed, and the most processor time and
memory that one of them took. Exits with 1 if there was a complaint.
"""

from __future__ import annotations

import argparse
import json
import logging
import random
import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent / "tests/support"))

from hostile_files import VALUES, copy_with, list_keys, open_and_ask, set_key
from tiny_families import MAKERS

MAX_NEW_BYTES = 64


def make_value(chance: random.Random, depth: int = 0) -> Any:
    """Return any JSON value: one of those that are known to hurt, or a random one."""
    kind = chance.randrange(8 if depth < 3 else 6)
    if kind < 3:
        return chance.choice(VALUES)
    if kind == 3:
        return chance.randint(-(10 ** chance.randrange(20)), 10 ** chance.randrange(20))
    if kind == 4:
        return chance.uniform(-1, 1) * 10 ** chance.randint(-300, 300)
    if kind == 5:
        return "".join(chr(chance.randrange(1, 0xD7FF)) for _ in range(chance.randrange(12)))
    inner = [make_value(chance, depth + 1) for _ in range(chance.randrange(4))]
    return inner if kind == 6 else {str(number): one for number, one in enumerate(inner)}


def change_file(directory: Path, chance: random.Random) -> str:
    """Change one file of a model, and return what was done to it."""
    files = sorted(path for path in directory.iterdir() if path.is_file())
    jsons = [path for path in files if path.suffix == ".json"]
    if chance.random() < 0.6:
        path = chance.choice(jsons)
        keys, value = chance.choice(list_keys(path)), make_value(chance)
        set_key(path, keys, value)
        return f"{path.name}: {'.'.join(map(str, keys))} = {value!r:.80}"
    path = chance.choice(files)
    whole = path.read_bytes()
    # Most often near the beginning, where headers are.
    start = (
        chance.randrange(min(len(whole), 4096) + 1)
        if chance.random() < 0.8
        else chance.randrange(len(whole) + 1)
    )
    stop = chance.choice((start, start, start + chance.randrange(64), len(whole)))
    new = chance.randbytes(chance.randrange(MAX_NEW_BYTES))
    path.write_bytes(whole[:start] + new + whole[stop:])
    return f"{path.name}: {len(new)} bytes in the place of {start} to {stop}"


def fuzz_family(family: str, examples: int, seed: int, folder: Path) -> dict[str, Any]:
    """Return the figures of one family, printing complaints as they come."""
    chance = random.Random(f"{seed} {family}")  # noqa: S311 - nothing secret
    base = MAKERS[family](folder / family)
    assert open_and_ask(base).word == "answered"  # what the first costs is the libraries'
    words: Counter[str] = Counter()
    seconds = bytes_ = 0.0
    complaints = 0
    for _ in range(examples):
        done: list[str] = []
        target = copy_with(
            base, folder / "model", lambda copy, done=done: done.append(change_file(copy, chance))
        )
        outcome = open_and_ask(target)
        words[outcome.word] += 1
        seconds, bytes_ = max(seconds, outcome.cpu_seconds), max(bytes_, outcome.peak_bytes)
        if outcome.complaint:
            complaints += 1
            print(f"{family}, {done[0]}: {outcome.complaint}", flush=True)
    return {
        **words,
        "complaints": complaints,
        "max_cpu_seconds": round(seconds, 2),
        "max_memory_mb": round(bytes_ / 1e6, 1),
    }


def main() -> int:
    """Fuzz the families and print the figures."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--examples", type=int, default=500, help="of each family (500)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--family", action="append", choices=sorted(MAKERS), help="repeatable (all)")
    arguments = parser.parse_args()
    logging.getLogger("glm").setLevel(logging.ERROR)  # notices about guesses are right, and many
    figures = {}
    with tempfile.TemporaryDirectory() as folder:
        for family in arguments.family or sorted(MAKERS):
            figures[family] = fuzz_family(family, arguments.examples, arguments.seed, Path(folder))
            print(f"{family}: {figures[family]}", flush=True)
    print(json.dumps(figures))
    return int(any(one["complaints"] for one in figures.values()))


if __name__ == "__main__":
    sys.exit(main())
