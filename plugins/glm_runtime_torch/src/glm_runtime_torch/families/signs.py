"""Signs by which ChatGLM2 and ChatGLM3 are told apart: their ``config.json`` files have the same keys.

ChatGLM3 has control tokens for roles, which its tokenizer's files name, and ChatGLM2 a prompt of rounds. The
publishers' own ids tell as well. A path on somebody's disk and the length of a context do not: people rename
folders and train at any length. They are hints, taken only where there is nothing better, and said to be.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from glm_core.errors import CheckpointError

from ..checkpoints.integrity import read_small_file
from ..checkpoints.json_file import read_json

# Files that hold the names of special tokens or a chat format. Code is read as text here and never run.
_TOKENIZER_FILES = (
    *("tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"),
    *("chat_template.jinja", "chat_template.json", "tokenization_chatglm.py"),
)
_MAX_BYTES = 2**20  # published ones have some kilobytes
_ROLE_TOKEN = re.compile(r"<\|(user|assistant|observation)\|>")
_ROUND = re.compile(r"\[Round ")
_PUBLISHERS = ("thudm", "zai-org", "zhipuai")
_ID = re.compile(r"(?P<owner>[\w.-]+)/(?P<name>[\w.-]+)")
# What a name begins with that only one of the families has.
_NAMES = {"chatglm2": "chatglm2", "codegeex2": "chatglm2", "chatglm3": "chatglm3"}
# The context lengths of the published models; ChatGLM3-6B-32K has ChatGLM2's, so it is a poor hint.
_LENGTHS = {8192: "chatglm3", 131072: "chatglm3", 32768: "chatglm2"}


@dataclass(frozen=True)
class Sign:
    """Something that speaks for a family.

    Attributes:
        family: its name.
        reason: what was seen, as a clause.
        is_certain: whether only that family has it.
    """

    family: str
    reason: str
    is_certain: bool


def find_signs(config: Mapping[str, Any], directory: Path | None) -> Iterator[Sign]:
    """Yield what speaks for ChatGLM2 or ChatGLM3, what weighs most first; the last is a mere guess.

    Args:
        config: the content of ``config.json``.
        directory: where the tokenizer's files are; ``None`` = nobody knows.
    """
    tokenizer: dict[str, Any] = {}
    if directory is not None:
        yield from _find_chat_format(directory)
        tokenizer = _read_leniently(directory / "tokenizer_config.json")
    files = {"config.json": config, "tokenizer_config.json": tokenizer}
    for file, content in files.items():
        yield from _find_published_ids(content, file)
    for file, content in files.items():
        last = re.split(r"[/\\]", str(content.get("_name_or_path") or content.get("name_or_path") or ""))[-1]
        if family := _find_family_of_name(last):
            yield Sign(family, f"{file} was saved from a path that ends in {last[:60]}", is_certain=False)
    length = config.get("seq_length")
    if isinstance(length, int) and length in _LENGTHS:
        yield Sign(_LENGTHS[length], f"its seq_length is {length:,}", is_certain=False)
    yield Sign("chatglm2", "nothing in its files tells which it is", is_certain=False)


def _find_chat_format(directory: Path) -> Iterator[Sign]:
    texts = {name: _read_text(directory / name) for name in _TOKENIZER_FILES}
    for name, text in texts.items():
        if found := _ROLE_TOKEN.search(text):
            yield Sign("chatglm3", f"{name} has the token {found.group()}", is_certain=True)
            return  # a template of roles may also speak of rounds
    for name, text in texts.items():
        if _ROUND.search(text):
            yield Sign("chatglm2", f"{name} counts rounds", is_certain=True)


def _find_published_ids(content: Mapping[str, Any], file: str) -> Iterator[Sign]:
    """Yield what the ids of published models say: where code came from, and what a copy was saved from."""
    references = content.get("auto_map")
    values = references.values() if isinstance(references, dict) else ()
    flat = [one for value in values for one in (value if isinstance(value, list) else [value])]
    ids = [one.partition("--")[0] for one in flat if isinstance(one, str) and "--" in one]
    ids += [str(content.get(key) or "") for key in ("_name_or_path", "name_or_path")]
    for one in ids:
        match = _ID.fullmatch(one)
        # Only the publishers' own: "models/chatglm3-6b" looks like an id and is a folder.
        if (
            match
            and match["owner"].lower() in _PUBLISHERS
            and (family := _find_family_of_name(match["name"]))
        ):
            yield Sign(family, f"{file} says {one}", is_certain=True)


def _find_family_of_name(name: str) -> str | None:
    return next((family for start, family in _NAMES.items() if name.lower().startswith(start)), None)


def _read_text(path: Path) -> str:
    try:
        return read_small_file(path, _MAX_BYTES).decode("utf-8", errors="replace")
    except CheckpointError:
        return ""  # missing mostly; whoever needs the file says what is wrong with it


def _read_leniently(path: Path) -> dict[str, Any]:
    try:
        return read_json(path)
    except CheckpointError:
        return {}
