"""The one typed reading of a checkpoint's JSON files: which key holds what, and what was expected of it.

A kind of file is a `FileRecord` with a field for each key that is used. Whatever a file holds instead is one
sentence that names the file, the key, the value and what was expected; keys that no field names are ignored.

    class GenerationFile(FileRecord):
        top_k: Annotated[int, limit_integer(0, 2**20)] | None = None

    settings = read_record(directory / "generation_config.json", GenerationFile)
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from glm_core import CheckpointError

from .json_file import read_json

MAX_SHOWN = 60
MAX_TOKEN_ID = 2**24  # vocabularies have up to 2**18 entries


class FileRecord(BaseModel):
    """What is read of one kind of file; a field's name is the file's own key.

    Strict: ``"28"``, ``28.0`` and ``true`` are no integers, and infinities no numbers.
    """

    model_config = ConfigDict(
        strict=True,
        extra="ignore",
        frozen=True,
        allow_inf_nan=False,
        protected_namespaces=(),  # published keys such as model_type may begin as pydantic's methods do
    )


RecordT = TypeVar("RecordT", bound=FileRecord)


class FieldError(ValueError):
    """A key of a file is missing or holds something else than was expected; the message is a clause."""


def limit_integer(minimum: int, maximum: int) -> Any:
    """Return the annotation of an integer within bounds, which are part of what an error says."""
    text = f"a whole number from {minimum:,} to {maximum:,}"
    return Field(ge=minimum, le=maximum, description=text)


def limit_number(minimum: float, maximum: float) -> Any:
    """Return the annotation of a finite number within bounds, which are part of what an error says."""
    return Field(ge=minimum, le=maximum, description=f"a number from {minimum:g} to {maximum:g}")


def parse_record(record: type[RecordT], content: Mapping[str, Any]) -> RecordT:
    """Return the typed record of a file's content.

    Raises:
        FieldError: naming the first key that is not as expected, its value and what was expected.
    """
    try:
        return record.model_validate(dict(content))
    except ValidationError as error:
        raise FieldError(_describe_error(error, record, content)) from None


def read_record(path: Path, record: type[RecordT]) -> RecordT:
    """Return the typed record of a JSON file.

    Raises:
        CheckpointError: the file is missing or no JSON object, or a key is not as expected.
    """
    content = read_json(path)
    try:
        return parse_record(record, content)
    except FieldError as error:
        raise CheckpointError(f"{path}: {error}; correct the file, or download it again.") from None


def format_value(value: Any) -> str:
    """Return a value as JSON writes it, cut to a readable length; safe to show on any screen."""
    try:
        text = json.dumps(value)  # ASCII only, so nothing in it can steer a terminal
    except (TypeError, ValueError):
        text = type(value).__name__
    return text if len(text) <= MAX_SHOWN else f"{text[: MAX_SHOWN - 1]}…"


def format_key(key: object) -> str:
    """Return a key as it is where it is a plain word, else as JSON writes it."""
    return str(key) if str(key).isascii() and str(key).isidentifier() else format_value(key)


def _describe_error(error: ValidationError, record: type[FileRecord], content: Mapping[str, Any]) -> str:
    errors = error.errors(include_url=False, include_input=False)
    first = errors[0]
    if not first["loc"]:  # of a validator that compares keys; it says everything itself
        return str(first["msg"]).removeprefix("Value error, ")
    key, expected, value = _follow(first["loc"], record, content)
    if first["type"] == "extra_forbidden":
        return f"{'.'.join(map(format_key, first['loc']))} is no key that is known there"
    others = len({one["loc"][0] for one in errors if one["loc"]}) - 1
    more = f" (and {others} more)" if others > 0 else ""
    if value is _MISSING:
        return f"{key} is missing, {expected} is expected{more}"
    return f"{key} is {format_value(value)}, {expected} is expected{more}"


_MISSING = object()


def _follow(
    location: tuple[int | str, ...], record: type[FileRecord], content: Mapping[str, Any]
) -> tuple[str, str, Any]:
    """Return the dotted key of an error's place, what is expected there, and the value that stands there."""
    head, *rest = location
    field = record.model_fields[str(head)]
    value = content.get(str(head), _MISSING)
    inner = next((one for one in _list_types(field.annotation) if _is_record(one)), None)
    if inner is not None and rest and isinstance(value, Mapping) and rest[0] in inner.model_fields:
        key, expected, value = _follow(tuple(rest), inner, value)
        return f"{head}.{key}", expected, value
    if rest and isinstance(value, Mapping) and rest[0] in value:
        content_type = next((one.__args__[1] for one in _list_types(field.annotation) if _is_dict(one)), Any)
        return f"{head}.{format_key(rest[0])}", _describe_type(content_type), value[rest[0]]
    return str(head), field.description or _describe_type(field.annotation), value


def _list_types(annotation: Any) -> list[Any]:
    parts = getattr(annotation, "__args__", ())
    return [annotation, *(inner for part in parts for inner in _list_types(part))]


def _is_dict(annotation: Any) -> bool:
    return getattr(annotation, "__origin__", None) is dict


def _is_record(annotation: Any) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, FileRecord)


_EXPECTED = {
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    str: "text",
    type(None): "null",
    dict: "a JSON object",
    list: "a list",
}


def _describe_type(annotation: Any) -> str:
    """Return in words what a field without a description takes."""
    if getattr(annotation, "__metadata__", None) is not None:  # Annotated[type, Field(...)]
        described = [one.description for one in annotation.__metadata__ if getattr(one, "description", None)]
        return described[0] if described else _describe_type(annotation.__origin__)
    if getattr(annotation, "__origin__", None) in (dict, list):
        return _EXPECTED[annotation.__origin__]
    if _is_record(annotation):
        return _EXPECTED[dict]
    parts = getattr(annotation, "__args__", ())
    if type(annotation).__name__ == "_LiteralGenericAlias":
        return "one of " + ", ".join(map(format_value, parts))
    if parts:  # a union
        return " or ".join(dict.fromkeys(map(_describe_type, parts)))
    return _EXPECTED.get(annotation, "another value")
