"""The chat template of a GGUF file, rendered in a process of its own, within bounds."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import threading
import weakref
from collections.abc import Mapping, Sequence
from pathlib import Path

from glm_core import RequestError

_PROGRAM = Path(__file__).with_name("_template_program.py")
PROCESSOR_SECONDS = 5  # published templates take milliseconds; so for the next two
MEMORY_BYTES = 512 * 2**20
WALL_SECONDS = 60.0  # for systems without a limit of processor time
MAX_EXTRA_CHARACTERS = 2**20
"""What a template may write beside twice the conversation."""


class ChatTemplate:
    """A chat template; safe to use from any thread.

    Args:
        source: Jinja text.
        variables: what every rendering gets, such as the texts of control tokens.
    """

    def __init__(self, source: str, variables: Mapping[str, str]) -> None:
        settings = {
            "path": [part for part in sys.path if part],
            "template": source,
            "variables": dict(variables),
            "memory_bytes": MEMORY_BYTES,
            "processor_seconds": PROCESSOR_SECONDS,
        }
        self._settings = json.dumps(settings).encode() + b"\n"
        self._process: subprocess.Popen[bytes] | None = None
        self._lock = threading.Lock()

    def render(self, messages: Sequence[Mapping[str, str]]) -> str:
        """Return the text of a conversation, up to where the model's answer begins.

        Raises:
            RequestError: the template refuses the conversation, or took more than its bounds.
        """
        limit = 2 * sum(len(message["content"]) for message in messages) + MAX_EXTRA_CHARACTERS
        line = json.dumps({"messages": list(messages), "max_characters": limit}).encode() + b"\n"
        with self._lock:
            answer = self._ask(line)
        if not answer.endswith(b"\n"):
            raise RequestError(
                f"the model's chat template took more than {PROCESSOR_SECONDS} seconds of processor time or "
                f"{MEMORY_BYTES // 2**20} MiB of memory for this conversation, so it was stopped"
            )
        found = json.loads(answer)
        if "refused" in found:
            raise RequestError(f"the model's chat template refuses this conversation: {found['refused']}")
        return str(found["text"])

    def _ask(self, line: bytes) -> bytes:
        """Return the line that answers a line; less than a line where the process was ended."""
        process = self._process
        if process is None or process.poll() is not None:  # not begun, or ended from outside
            process = self._process = _start()
            self._ending = weakref.finalize(self, _end, process)
            line = self._settings + line
        assert process.stdin is not None
        assert process.stdout is not None
        watch = threading.Timer(WALL_SECONDS, process.kill)
        watch.daemon = True
        watch.start()
        answer = b""
        try:
            process.stdin.write(line)
            process.stdin.flush()
            answer = process.stdout.readline()
        except OSError:  # it was ended while it read
            pass
        finally:
            watch.cancel()
        if not answer.endswith(b"\n"):
            self._ending()
            self._process = None
        return answer


def _start() -> subprocess.Popen[bytes]:
    try:
        return subprocess.Popen(  # noqa: S603 - this very interpreter, and our own program
            [sys.executable, "-I", "-S", str(_PROGRAM)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
    except OSError as error:
        raise RequestError(f"the system starts no process for the model's chat template: {error}") from error


def _end(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    for stream in (process.stdin, process.stdout):
        assert stream is not None
        with contextlib.suppress(OSError):  # what was not sent yet cannot be sent any more
            stream.close()
    process.wait()
