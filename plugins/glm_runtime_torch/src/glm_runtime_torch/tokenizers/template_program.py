"""Run as a program: renders the chat templates of one checkpoint, within limits that the system enforces.

python -I -S template_program.py

A template is a program in Jinja's language that came with somebody's file. Jinja's sandbox keeps it from
Python and from files, but not from loops that never end or from a string of ten gigabytes: one operator is
one call in C, which nothing within the same process can stop. So templates run in a process of their own.

The first line on standard input is an object with ``path`` (where modules are found), ``template``,
``memory_bytes`` and ``processor_seconds`` (of one conversation). Each further line is an object with
``variables`` and ``max_characters``, and is answered by a line: ``{"text": ...}``, ``{"refused": ...}`` with
the template's own message, or ``{"too_much": ...}`` with the limit that it met. Standard library and Jinja
only, so that starting it takes little time and memory.
"""

from __future__ import annotations

import json
import math
import signal
import sys
from collections.abc import Callable
from datetime import datetime
from typing import Any

# What a template says when it refuses is for one line of an error.
MAX_MESSAGE = 300


class TooMuchError(Exception):
    """A template took more than a limit."""


def main() -> None:
    """Answer lines until there are no more."""
    # Ctrl-C in a terminal reaches every process; it is meant for the one that asks.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    given = json.loads(sys.stdin.buffer.readline())
    sys.path.extend(given["path"])
    render = make_renderer(given["template"])
    limit_memory(given["memory_bytes"])
    for line in sys.stdin.buffer:
        limit_processor_time(given["processor_seconds"])
        asked = json.loads(line)
        try:
            answer = {"text": render(asked["variables"], asked["max_characters"])}
        except TooMuchError as error:
            answer = {"too_much": str(error)}
        except MemoryError:
            answer = {"too_much": f"{given['memory_bytes'] / 2**20:.0f} MiB of memory"}
        except Exception as error:  # whatever a template raises, jinja2's own errors included
            answer = {"refused": " ".join(str(error).split())[:MAX_MESSAGE] or type(error).__name__}
        sys.stdout.buffer.write(json.dumps(answer).encode() + b"\n")
        sys.stdout.buffer.flush()


def limit_memory(size: int) -> None:
    """Let the system refuse memory beyond a size, where it can."""
    try:
        import resource
    except ImportError:  # Windows
        return
    try:
        resource.setrlimit(
            resource.RLIMIT_CORE, (0, 0)
        )  # the system ends it often enough; nobody reads these
        resource.setrlimit(resource.RLIMIT_AS, (size, size))
    except (ValueError, OSError):  # macOS knows the limit and does not set it
        return


def limit_processor_time(seconds: int) -> None:
    """Let the system end this process after some more seconds of processor time, where it can."""
    try:
        import resource
    except ImportError:  # Windows; the caller watches the clock too
        return
    used = resource.getrusage(resource.RUSAGE_SELF)
    _, hard = resource.getrlimit(resource.RLIMIT_CPU)
    end = math.ceil(used.ru_utime + used.ru_stime) + seconds
    if hard != resource.RLIM_INFINITY:
        end = min(end, hard)
    resource.setrlimit(resource.RLIMIT_CPU, (end, hard))


def make_renderer(source: str) -> Callable[[dict[str, Any], int], str]:
    """Return what renders a template for some variables, up to a number of characters."""
    environment = make_environment()
    compiled: list[Any] = []

    def render(variables: dict[str, Any], max_characters: int) -> str:
        # Compiled at the first conversation, so that a template which is no Jinja is that one's refusal.
        if not compiled:
            compiled.append(environment.from_string(source))
        parts, length = [], 0
        for part in compiled[0].generate(variables):
            length += len(part)
            if length > max_characters:
                raise TooMuchError(f"{max_characters:,} characters of output")
            parts.append(part)
        return "".join(parts)

    return render


def make_environment() -> Any:
    """Return the environment that transformers gives chat templates, a sandbox."""
    import jinja2
    import jinja2.ext
    import jinja2.sandbox

    class Generation(jinja2.ext.Extension):
        """Shows what stands between ``generation`` and ``endgeneration``, marks that only training reads."""

        tags = {"generation"}  # noqa: RUF012 - jinja2's own form

        def parse(self, parser: Any) -> list[Any]:
            next(parser.stream)
            body: list[Any] = parser.parse_statements(("name:endgeneration",), drop_needle=True)
            return body

    class PlainNamespace(jinja2.utils.Namespace):
        """A namespace without names that begin with an underscore: those are Python's."""

        def __setitem__(self, name: str, value: Any) -> None:
            if isinstance(name, str) and name.startswith("_"):
                raise jinja2.exceptions.SecurityError(f"a namespace cannot have the name {name!r}")
            super().__setitem__(name, value)

    def make_namespace(*pairs: Any, **members: Any) -> PlainNamespace:
        found = PlainNamespace()
        for name, value in dict(*pairs, **members).items():
            found[name] = value
        return found

    def raise_exception(message: str) -> None:
        raise jinja2.exceptions.TemplateError(message)

    # Jinja's own writes for HTML; and the arguments are those that templates may name, no more.
    def to_json(
        value: Any,
        ensure_ascii: bool = False,
        indent: Any = None,
        separators: Any = None,
        sort_keys: bool = False,
    ) -> str:
        return json.dumps(
            value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys
        )

    environment = jinja2.sandbox.ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[Generation, jinja2.ext.loopcontrols]
    )
    environment.filters["tojson"] = to_json
    environment.globals["raise_exception"] = raise_exception
    environment.globals["strftime_now"] = lambda form: datetime.now().strftime(form)
    environment.globals["dict"] = lambda *pairs, **members: dict(*pairs, **members)
    environment.globals["namespace"] = make_namespace
    return environment


if __name__ == "__main__":
    main()
