"""Reading the JSON files of a checkpoint: bounded in size and depth, and strict where JSON is vague.

Needs neither torch nor pydantic: choosing a runtime reads ``config.json``, and must be quick. What the keys
hold is checked in `record_file`.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from glm_core import CheckpointError

from .integrity import read_small_file

# The largest index that was ever published names 92,000 tensors in 9 MB.
MAX_JSON_BYTES = 16 * 2**20
# Python takes 100 to 200 bytes for each, so a file of nothing but brackets stays below 100 MB.
MAX_JSON_ELEMENTS = 400_000
MAX_JSON_DEPTH = 64  # published files have 5; beyond some hundred Python's own writer gives up
MAX_DIGITS = 100  # transformers writes 31 of them where it means "no limit"


def read_json(path: Path) -> dict[str, Any]:
    """Return a JSON object from a file of a checkpoint.

    A byte order mark in front is read over. A key may stand twice only with equal values.

    Raises:
        CheckpointError: missing, a Git LFS pointer, too large, no JSON, or no object; names the file.
    """
    data = check_json_size(path)
    try:
        text = data.decode("utf-8-sig")  # editors on Windows put a byte order mark in front
        content = json.loads(text, object_pairs_hook=_build_object, parse_int=_parse_integer)
        _check_elements(content)
    except UnicodeDecodeError as error:
        raise CheckpointError(
            f"{path} is not UTF-8 text (byte {error.start:,}); save it as UTF-8, or download it again."
        ) from error
    except RecursionError:
        raise CheckpointError(_describe_depth(path)) from None
    except ValueError as error:
        reason = " ".join(str(error).split())[:200]
        raise CheckpointError(
            f"{path} is not valid JSON ({reason}); correct it, or download it again."
        ) from None
    if not isinstance(content, dict):
        raise CheckpointError(
            f"{path} holds {_NAMES.get(type(content), 'a number')}, a JSON object is expected; "
            "correct it, or download it again."
        )
    return content


def check_json_size(
    path: Path, max_bytes: int = MAX_JSON_BYTES, max_elements: int = MAX_JSON_ELEMENTS
) -> bytes:
    """Return the bytes of a JSON file once it is known that a parser can hold what is in it.

    Raises:
        CheckpointError: it has more bytes or elements, or cannot be read.
    """
    data = read_small_file(path, max_bytes)
    elements = data.count(b",") + data.count(b"[") + data.count(b"{")
    if elements > max_elements:
        raise CheckpointError(
            f"{path} has about {elements:,} elements, at most {max_elements:,} are expected; "
            "it is not the file that its name says. Download it again."
        )
    return data


_NAMES = {list: "a list", str: "text", type(None): "null", bool: "true or false"}


def _build_object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) < len(pairs):
        # Programs differ in which of the two they take, so taking one would be a guess.
        for key, value in pairs:
            if result[key] != value:
                raise ValueError(f"the key {json.dumps(key)[:80]} stands there twice with different values")
    return result


def _parse_integer(digits: str) -> int:
    if len(digits) > MAX_DIGITS:
        raise ValueError(f"a number of {len(digits):,} digits, {digits[:20]}…")
    return int(digits)


def _check_elements(content: Any) -> None:
    """Refuse what is nested too deeply, and text with half a character, which nothing could print."""
    level, depth = [content], 0
    while level:
        if depth > MAX_JSON_DEPTH:
            raise RecursionError
        below: list[Any] = []
        for element in level:
            if isinstance(element, dict):
                below += element.keys()
                below += element.values()
            elif isinstance(element, list):
                below += element
            elif isinstance(element, str) and not element.isascii():
                element.encode()  # a lone surrogate has no bytes: UnicodeEncodeError, a ValueError
        level, depth = below, depth + 1


def _describe_depth(path: Path) -> str:
    return (
        f"{path} is nested more than {MAX_JSON_DEPTH} levels deep, which no file of a checkpoint is; "
        "download it again."
    )
