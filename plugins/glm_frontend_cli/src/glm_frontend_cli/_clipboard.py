"""Copying text to the clipboard, by a program of this machine or by the terminal itself."""

from __future__ import annotations

import base64
import os
import shutil
import subprocess
from collections.abc import Callable, Mapping
from dataclasses import dataclass

_SECONDS = 5


@dataclass(frozen=True)
class Program:
    """A program that takes over what it reads.

    Attributes:
        command: and its arguments.
        needs: environment variable without which it reaches no screen; empty = none.
        encoding: of the text that it expects.
    """

    command: tuple[str, ...]
    needs: str = ""
    encoding: str = "utf-8"


PROGRAMS = (
    Program(("pbcopy",)),
    Program(("wl-copy",), "WAYLAND_DISPLAY"),
    Program(("xclip", "-selection", "clipboard"), "DISPLAY"),
    Program(("xsel", "--clipboard", "--input"), "DISPLAY"),
    Program(("clip.exe",), encoding="utf-16"),  # Windows, also from its Linux subsystem
)


def copy(text: str, write: Callable[[str], object], environ: Mapping[str, str] = os.environ) -> bool:
    """Copy ``text``.

    Args:
        text: what to copy.
        write: writes to the terminal, which is asked (OSC 52) where no program can do it, and always
            over SSH: the clipboard that counts is on the other side.
        environ: the environment.

    Returns:
        Whether a program has taken the text; a terminal does not say whether it did.
    """
    if "SSH_CONNECTION" not in environ:
        for program in PROGRAMS:
            if (not program.needs or environ.get(program.needs)) and _run(program, text):
                return True
    write(f"\x1b]52;c;{base64.b64encode(text.encode()).decode()}\x07")
    return False


def _run(program: Program, text: str) -> bool:
    path = shutil.which(program.command[0])
    if path is None:
        return False
    try:
        subprocess.run(  # noqa: S603 - a fixed command, found on the PATH
            [path, *program.command[1:]],
            input=text.encode(program.encoding),
            stdout=subprocess.DEVNULL,  # some stay in the background and would keep a pipe open
            stderr=subprocess.DEVNULL,
            timeout=_SECONDS,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return False
    return True
