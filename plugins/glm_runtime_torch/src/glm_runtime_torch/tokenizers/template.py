"""Rendering a checkpoint's chat template, with bounds on what it may take."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import weakref
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

from glm_core import CheckpointError, RequestError

PROGRAM = Path(__file__).with_name("template_program.py")
# Templates as published take some milliseconds and some megabytes for the longest conversation that a server
# takes; these bounds are a hundred times that.
PROCESSOR_SECONDS = 5
MEMORY_BYTES = 512 * 2**20
# By the clock, for systems that know no limit of processor time; a busy machine is slow without any fault.
WALL_SECONDS = 60.0
# An answer to a conversation is the conversation and what stands around its messages.
OUTPUT_SHARE = 2
MAX_EXTRA_CHARACTERS = 2**18
# Published ones have up to 10 KB.
MAX_TEMPLATE_CHARACTERS = 2**20


class ChatTemplate:
    """A chat template, rendered in a process of its own; safe to use from any thread.

    Bounds are `PROCESSOR_SECONDS`, `MEMORY_BYTES` (on Linux), `WALL_SECONDS`, and `OUTPUT_SHARE` times the
    messages plus `MAX_EXTRA_CHARACTERS`. The process is started by the first conversation and ends with this
    object; one that met a bound is replaced.

    Args:
        source: Jinja text.
        name: where it is from, for errors.
        variables: what every rendering gets, such as the special tokens.

    Raises:
        CheckpointError: the text is far too long for a template.
    """

    def __init__(self, source: str, name: str, variables: Mapping[str, Any]) -> None:
        if len(source) > MAX_TEMPLATE_CHARACTERS:
            raise CheckpointError(
                f"{name}: the chat template has {len(source):,} characters; at most "
                f"{MAX_TEMPLATE_CHARACTERS:,} are read. Take the template that was published with the model."
            )
        self._name = name
        self._variables = dict(variables)
        self._source = source
        self._process: subprocess.Popen[bytes] | None = None
        self._ending: weakref.finalize[Any, ChatTemplate] | None = None
        self._owner = 0  # the process that started it; after a fork it belongs to the parent alone
        self._lock = threading.Lock()

    def render(self, messages: Sequence[Mapping[str, Any]], *, add_generation_prompt: bool) -> str:
        """Return the text of a conversation.

        Args:
            messages: each with ``role`` and ``content``.
            add_generation_prompt: whether the assistant's turn is begun at its end.

        Raises:
            RequestError: the template refuses the conversation, or met a bound.
        """
        variables = {
            "messages": list(messages),
            "tools": None,
            "documents": None,
            "add_generation_prompt": add_generation_prompt,
            **self._variables,
        }
        length = sum(len(message["content"]) for message in messages)
        limit = OUTPUT_SHARE * length + MAX_EXTRA_CHARACTERS
        line = json.dumps({"variables": variables, "max_characters": limit}, default=str).encode() + b"\n"
        with self._lock:  # one at a time: a rendering takes milliseconds
            answer = self._ask(line)
        if "text" in answer:
            text: str = answer["text"]
            return text
        if "too_much" in answer:
            self._refuse(answer["too_much"])
        raise RequestError(f"the model's chat template refuses this conversation: {answer['refused']}")

    def close(self) -> None:
        """End the process; the next rendering starts another."""
        if self._ending is not None:
            self._ending()
        self._process = self._ending = None

    def _ask(self, line: bytes) -> dict[str, Any]:
        process = self._process
        # It may have been ended from outside, by whoever looks for memory to free.
        if process is None or self._owner != os.getpid() or process.poll() is not None:
            process = self._start()
        assert process.stdin is not None
        assert process.stdout is not None
        is_late = threading.Event()

        def end() -> None:
            is_late.set()
            process.kill()

        watch = threading.Timer(WALL_SECONDS, end)
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
            self.close()
            self._refuse(
                f"{WALL_SECONDS:.0f} seconds"
                if is_late.is_set()
                else f"{PROCESSOR_SECONDS} seconds of processor time or {MEMORY_BYTES // 2**20} MiB of memory"
            )
        found: dict[str, Any] = json.loads(answer)
        return found

    def _start(self) -> subprocess.Popen[bytes]:
        self.close()
        settings = {
            # As this process finds modules, since the program runs without Python's own rules for that.
            "path": [part for part in sys.path if part],
            "template": self._source,
            "memory_bytes": MEMORY_BYTES,
            "processor_seconds": PROCESSOR_SECONDS,
        }
        try:
            process = subprocess.Popen(  # noqa: S603 - this very interpreter, and our own program
                [sys.executable, "-I", "-S", str(PROGRAM)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
            )
        except OSError as error:
            raise RequestError(
                f"{self._name}: the chat template runs in a process of its own, which the system does not "
                f"start: {error}. Close other programs, and try again."
            ) from error
        self._owner = os.getpid()
        self._process, self._ending = process, weakref.finalize(self, _end_process, process, self._owner)
        assert process.stdin is not None
        process.stdin.write(json.dumps(settings).encode() + b"\n")
        return process

    def _refuse(self, bound: str) -> NoReturn:
        raise RequestError(
            f"the chat template of {self._name} needs more than {bound} for this conversation, so it was "
            "stopped. Take the template that was published with the model, or send a shorter conversation."
        )


def _end_process(process: subprocess.Popen[bytes], owner: int) -> None:
    if os.getpid() != owner:  # a fork's copy of this object; the process is the parent's
        return
    process.kill()
    for stream in (process.stdin, process.stdout):
        if stream is not None:
            try:
                stream.close()
            except OSError:  # what was not sent yet cannot be sent any more
                continue
    process.wait()
