"""Run as a program: renders the chat template of one file, within limits that the system enforces.

python -I -S _template_program.py

A template is a program that came with somebody's file. Jinja's sandbox keeps it from Python, but not from
loops that never end or from texts of gigabytes, which nothing within the same process can stop.

The first line on standard input is an object with ``path`` (where modules are found), ``template``,
``variables`` (which every rendering gets), ``memory_bytes`` and ``processor_seconds`` (of one conversation).
Each further line is an object with ``messages`` and ``max_characters``, and is answered by a line with
``text`` or ``refused``, the reason.
"""

from __future__ import annotations

import json
import math
import signal
import sys
from collections.abc import Iterator
from datetime import datetime
from typing import Any

MAX_REASON = 300  # characters; a reason is for one line of an error


def main() -> None:
    """Answer lines until there are no more."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is meant for the process that asks
    given = json.loads(sys.stdin.readline())
    sys.path.extend(given["path"])
    environment = _make_environment()
    _limit("RLIMIT_AS", given["memory_bytes"])
    compiled: list[Any] = []
    for line in sys.stdin:
        _limit("RLIMIT_CPU", _read_processor_time() + given["processor_seconds"])
        asked = json.loads(line)
        try:
            if not compiled:  # within the limits, since Jinja computes constants when it compiles
                compiled.append(environment.from_string(given["template"]))
            parts = compiled[0].generate(
                **given["variables"],
                **dict.fromkeys(("tools", "tool_choice", "functions", "function_call", "documents")),
                messages=asked["messages"],
                add_generation_prompt=True,
            )
            answer = {"text": _join(parts, asked["max_characters"])}
        except MemoryError:
            answer = {"refused": "it takes too much memory"}
        except Exception as error:  # whatever a template raises
            answer = {"refused": " ".join(str(error).split())[:MAX_REASON] or type(error).__name__}
        print(json.dumps(answer), flush=True)


def _make_environment() -> Any:
    import jinja2.ext
    import jinja2.sandbox

    def raise_exception(message: str) -> None:
        raise jinja2.TemplateError(message)

    environment = jinja2.sandbox.ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[jinja2.ext.loopcontrols]
    )
    environment.globals["raise_exception"] = raise_exception
    environment.globals["strftime_now"] = lambda form: datetime.now().strftime(form)
    return environment


def _join(parts: Iterator[str], max_characters: int) -> str:
    found, length = [], 0
    for part in parts:
        length += len(part)
        if length > max_characters:
            raise ValueError(f"it writes more than {max_characters:,} characters")
        found.append(part)
    return "".join(found)


def _limit(name: str, value: int) -> None:
    """Set a limit of the system, where it knows such limits; whoever asks watches the clock as well."""
    try:
        import resource

        resource.setrlimit(getattr(resource, name), (value, resource.getrlimit(getattr(resource, name))[1]))
    except (
        ImportError,
        ValueError,
        OSError,
    ):  # Windows; macOS; a stricter limit that is set already
        return


def _read_processor_time() -> int:
    import time

    return math.ceil(time.process_time())


if __name__ == "__main__":
    main()
