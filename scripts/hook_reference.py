"""Write docs/plugins/hooks.md from the docstrings of the hooks and records.

python scripts/hook_reference.py            writes it
python scripts/hook_reference.py --check    fails where it is not what would be written
"""

from __future__ import annotations

import dataclasses
import inspect
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from glm_core import errors, hookspecs, records

DOCUMENT = Path(__file__).parent.parent / "docs" / "plugins" / "hooks.md"
HEAD = """# Hook reference

Written by `python scripts/hook_reference.py` from the docstrings of `glm_core`; change those.

"""
PROTOCOLS: tuple[Any, ...] = (records.LoadedModel, records.AdapterHolder)


def main(arguments: list[str]) -> int:
    """Write or check."""
    text = build_reference()
    if arguments == ["--check"]:
        if DOCUMENT.read_text("utf-8") == text:
            return 0
        print(f"{DOCUMENT} is not what the docstrings say; run python scripts/hook_reference.py")
        return 1
    DOCUMENT.write_text(text, "utf-8")
    return 0


def build_reference() -> str:
    """Return the whole document."""
    parts = [HEAD.rstrip(), format_prose(inspect.getdoc(hookspecs) or "")]
    parts += [format_hook(name, function) for name, function in find_hooks().items()]
    parts.append("# Records\n\nAll are frozen and are imported from `glm_core.records`.")
    parts += [format_record(name, kind) for name, kind in find_records().items()]
    parts.append(f"# Errors\n\n{format_prose(inspect.getdoc(errors) or '')}")
    return "\n\n".join(parts) + "\n"


def find_hooks() -> dict[str, Callable[..., Any]]:
    """Return every hook by name, in the order of the module."""
    return {name: value for name, value in vars(hookspecs).items() if hasattr(value, "glm_spec")}


def find_records() -> dict[str, type]:
    """Return every record and protocol by name, sorted."""
    return {
        name: kind
        for name, kind in sorted(vars(records).items())
        if isinstance(kind, type) and (dataclasses.is_dataclass(kind) or kind in PROTOCOLS)
    }


def format_hook(name: str, function: Callable[..., Any]) -> str:
    """Format heading, signature and docstring of one hook."""
    signature = str(inspect.signature(function)).replace("'", "")
    text = format_sections(inspect.getdoc(function) or "")
    return f"## {name}\n\n```python\ndef {name}{signature}\n```\n\n{text}"


def format_record(name: str, kind: type) -> str:
    """Format heading, docstring and fields of one record."""
    if kind in PROTOCOLS:
        return format_protocol(name, kind)
    text, _, attributes = (inspect.getdoc(kind) or "").partition("\nAttributes:\n")
    texts = dict(_read_entries(attributes))
    rows = [
        f"## {name}\n\n{format_prose(text.strip())}\n",
        "| Field | Type | Default | |",
        "| --- | --- | --- | --- |",
    ]
    for field in dataclasses.fields(kind):
        default = _format_default(field)
        shown_type = str(field.type).replace("|", "\\|")
        rows.append(
            f"| `{field.name}` | `{shown_type}` | {default} | {format_prose(texts.get(field.name, ''))} |"
        )
    return "\n".join(rows)


def format_protocol(name: str, kind: type) -> str:
    """Format heading, docstring and members of what a plugin's own object must have."""
    parts = [f"## {name}", format_prose(inspect.getdoc(kind) or "")]
    for member, value in vars(kind).items():
        if not member.startswith("_") and (isinstance(value, property) or inspect.isfunction(value)):
            function = value.fget if isinstance(value, property) else value
            assert function is not None
            signature = "" if isinstance(value, property) else str(inspect.signature(function))
            shown = f"{member}{signature.replace(chr(39), '')}"
            parts += [f"### `{shown}`", format_sections(inspect.getdoc(function) or "")]
    return "\n\n".join(parts)


def _format_default(field: dataclasses.Field[Any]) -> str:
    if field.default is not dataclasses.MISSING:
        kind = type(field.default)
        if inspect.isfunction(field.default):
            return "does nothing"
        return f"`{kind.__name__}()`" if dataclasses.is_dataclass(kind) else f"`{field.default!r}`"
    if field.default_factory is not dataclasses.MISSING:
        return "`{}`"
    return "required"


def format_sections(text: str) -> str:
    """Return a Google-style docstring as Markdown."""
    parts: list[str] = []
    for block in re.split(r"\n\n+", text):
        title, _, body = block.partition(":\n")
        if title in ("Args", "Raises"):
            parts.append(
                "\n".join(
                    [f"**{title}**", "", *(f"- `{n}`: {format_prose(t)}" for n, t in _read_entries(body))]
                )
            )
        elif title == "Returns":
            parts.append(f"**Returns** {format_prose(inspect.cleandoc(body))}")
        elif block.startswith("When:"):
            entries = re.findall(r"^(When|Answer): +(.*(?:\n +.*)*)", block, re.MULTILINE)
            parts += [f"**{name}** {format_prose(text)}" for name, text in entries]
        else:
            parts.append(format_prose(block))
    return "\n\n".join(parts)


def _read_entries(body: str) -> Iterator[tuple[str, str]]:
    """Read name and text of each entry of a section."""
    text = inspect.cleandoc(f"\n{body}")
    yield from re.findall(r"^([\w.]+): (.*(?:\n[ \n]+.*)*)", text, re.MULTILINE)


def format_prose(text: str) -> str:
    """Return running text in lines of its own; what is indented or a drawing stays as it is."""
    blocks = []
    for block in re.split(r"\n\n+", text):
        if re.match(r"\s", block):
            blocks.append(f"```text\n{inspect.cleandoc(block)}\n```")
        else:
            line = " ".join(block.split()).removesuffix("::")
            line += ":" if block.rstrip().endswith("::") else ""
            blocks.append(re.sub(r"`{1,2}([^`]+)`{1,2}", r"`\1`", line))
    return "\n\n".join(blocks)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
