"""Programs in processes of their own: started, read while they run, stopped, and never left behind."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import IO, Self

from patience import PATIENCE_SECONDS


class ChildProcess:
    """A program that runs beside the test.

    One thread for each stream reads it from the first byte to the last. So nothing that was read while
    waiting for a line is lost to whoever asks for the rest (as with an iterator over a pipe, followed by
    ``communicate``), and the program never waits for a pipe that is full. Leaving the ``with`` block
    kills the program, and all that it started, if it still runs.

    Args:
        command: the program and its arguments.
        environment: the whole environment of the child; ours if ``None``.
        folder: where it runs.
        stderr: a file descriptor to which its standard error goes instead of to `errors`.
    """

    def __init__(
        self,
        *command: str | Path,
        environment: Mapping[str, str] | None = None,
        folder: Path | None = None,
        stderr: int = subprocess.PIPE,
    ) -> None:
        self._command = [str(part) for part in command]
        self._process = subprocess.Popen(
            self._command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=stderr,
            env=None if environment is None else dict(environment),
            cwd=folder,
            text=True,
            encoding="utf-8",
            errors="replace",
            start_new_session=True,  # so that its own children can be killed with it
        )
        self._changed = threading.Condition()
        self._lines: dict[str, list[str]] = {"output": [], "errors": []}
        self._open_streams = 1 if self._process.stderr is None else 2
        self._readers = [
            threading.Thread(target=self._read, args=(name, stream), daemon=True)
            for name, stream in (("output", self._process.stdout), ("errors", self._process.stderr))
            if stream is not None
        ]
        for reader in self._readers:
            reader.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.kill()
        if error is not None:
            error.add_note(self._describe())

    @property
    def output(self) -> str:
        """All lines of standard output so far."""
        with self._changed:
            return "".join(self._lines["output"])

    @property
    def errors(self) -> str:
        """All lines of standard error so far."""
        with self._changed:
            return "".join(self._lines["errors"])

    @property
    def returncode(self) -> int | None:
        """The exit status, or ``None`` while it runs."""
        return self._process.poll()

    def wait_for(self, pattern: str) -> re.Match[str]:
        """Wait for a line of either stream, and return the match; lines that came before count as well.

        Args:
            pattern: a regular expression that is searched in every line.

        Raises:
            AssertionError: if the program ends, or nothing comes for long, before such a line.
        """
        end = time.monotonic() + PATIENCE_SECONDS
        seen = {"output": 0, "errors": 0}
        with self._changed:
            while True:
                for name, lines in self._lines.items():
                    for line in lines[seen[name] :]:
                        if match := re.search(pattern, line):
                            return match
                    seen[name] = len(lines)
                left = end - time.monotonic()
                if not self._open_streams:
                    with contextlib.suppress(subprocess.TimeoutExpired):
                        self._process.wait(10)  # for its status: its streams may end a moment before it does
                    raise AssertionError(f"it ended without a line like {pattern!r}\n{self._describe()}")
                assert left > 0, f"no line matched {pattern!r} in time\n{self._describe()}"
                self._changed.wait(left)

    def write(self, text: str) -> None:
        """Write to its standard input."""
        assert self._process.stdin is not None
        self._process.stdin.write(text)
        self._process.stdin.flush()

    def send_signal(self, number: int) -> None:
        """Send a signal to the program itself, not to what it started."""
        self._process.send_signal(number)

    def kill(self) -> None:
        """End it, and all that it started, at once."""
        still_there = self.returncode is None or any(reader.is_alive() for reader in self._readers)
        if still_there and hasattr(os, "killpg"):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
        self._process.kill()
        self._join()

    def finish(self, *, seconds: float = PATIENCE_SECONDS) -> subprocess.CompletedProcess[str]:
        """Close its input, wait for its end, and return all that it wrote since its start.

        Raises:
            AssertionError: if it does not end; then it is killed.
        """
        self._close_input()
        try:
            status = self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            self.kill()
            raise AssertionError(f"it did not end within {seconds:g} seconds\n{self._describe()}") from None
        self._join()
        return subprocess.CompletedProcess(self._command, status, self.output, self.errors)

    def _join(self) -> None:
        self._close_input()
        self._process.wait()
        for reader in self._readers:
            reader.join(PATIENCE_SECONDS)
            assert not reader.is_alive(), f"something it started still holds its output\n{self._describe()}"
        for stream in (self._process.stdout, self._process.stderr):
            if stream is not None:
                stream.close()

    def _close_input(self) -> None:
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()

    def _read(self, name: str, stream: IO[str]) -> None:
        for line in stream:
            with self._changed:
                self._lines[name].append(line)
                self._changed.notify_all()
        with self._changed:
            self._open_streams -= 1
            self._changed.notify_all()

    def _describe(self) -> str:
        command = " ".join(self._command)
        return f"{command}\nstatus: {self.returncode}\noutput:\n{self.output}\nerrors:\n{self.errors}"


def run(
    *command: str | Path,
    environment: Mapping[str, str] | None = None,
    folder: Path | None = None,
    input: str = "",
    seconds: float = PATIENCE_SECONDS,
) -> subprocess.CompletedProcess[str]:
    """Run a program to its end and return its status and all that it wrote.

    Args:
        command: the program and its arguments.
        environment: its whole environment; ours if ``None``.
        folder: where it runs.
        input: what it reads.
        seconds: after which it is killed and the test fails.
    """
    with ChildProcess(*command, environment=environment, folder=folder) as child:
        if input:
            child.write(input)
        return child.finish(seconds=seconds)


def clean_environment(**changes: str) -> dict[str, str]:
    """Return our environment without the settings of whoever runs the tests.

    Args:
        changes: variables to set.
    """
    ours = {
        name: value for name, value in os.environ.items() if not name.startswith(("GLM_", "HF_", "PYTHON"))
    }
    return ours | {"XDG_CONFIG_HOME": "/nonexistent", "LC_ALL": "C.UTF-8"} | changes


def start_glm(*arguments: str | Path, **environment: str) -> ChildProcess:
    """Start the ``glm`` command, in English.

    Args:
        arguments: of the command.
        environment: variables to set.
    """
    command = (sys.executable, "-m", "glm_core", *arguments)
    return ChildProcess(*command, environment=clean_environment(GLM_LANG="en", **environment))
