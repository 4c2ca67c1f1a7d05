"""Makes docs/images/terminal.svg: a real conversation with the demo model in `glm run cli`.

    python scripts/terminal_picture.py [OUTPUT]

Runs the command in a terminal of its own, types what a newcomer would, and draws the screen as it is
then. Needs Linux or macOS and the packages of requirements-dev.txt.
"""

from __future__ import annotations

import os
import pty
import re
import select
import sys
import time
from pathlib import Path

import pyte
from rich.color import Color
from rich.console import Console
from rich.style import Style
from rich.terminal_theme import MONOKAI
from rich.text import Text

COLUMNS, ROWS = 92, 30
QUESTIONS = (
    "你好",
    "没有网络能用吗？",
    "How do I run my own checkpoint?",
    "Something is broken, what can I do?",
)
NAMED = {"brown": "yellow", "brightblack": "bright_black"}


def main(output: Path) -> None:
    """Run the conversation and write the picture."""
    screen = pyte.Screen(COLUMNS, ROWS)
    screen.set_mode(pyte.modes.LNM)
    stream = pyte.ByteStream(screen)
    pid, terminal = pty.fork()
    if pid == 0:
        environment = {
            **os.environ,
            "TERM": "xterm-256color",
            "COLUMNS": str(COLUMNS),
            "LINES": str(ROWS),
            "GLM_LANG": "en",
        }
        command = [sys.executable, "-m", "glm_core", "run", "cli", "--no-history", "--temperature", "0"]
        os.execve(sys.executable, command, environment)  # noqa: S606 - our own command, no shell
    import fcntl
    import struct
    import termios

    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", ROWS, COLUMNS, 0, 0))
    _read_until_quiet(terminal, stream, first_wait=30)
    for question in QUESTIONS:
        os.write(terminal, question.encode())
        _read_until_quiet(terminal, stream, first_wait=5)
        os.write(terminal, b"\r")
        _read_until_quiet(terminal, stream, first_wait=20)
    console = Console(record=True, width=COLUMNS, file=open(os.devnull, "w"))  # noqa: SIM115
    for row in range(ROWS):
        console.print(_render_row(screen, row), soft_wrap=True)
    output.parent.mkdir(parents=True, exist_ok=True)
    picture = console.export_svg(title="glm run cli", theme=MONOKAI)
    # Web fonts would make readers' browsers ask a server; their own monospace font will do.
    output.write_text(re.sub(r"@font-face \{.*?\n    \}\n", "", picture, flags=re.DOTALL), "utf-8")
    os.write(terminal, b"\x04")
    print(output)


def _read_until_quiet(terminal: int, stream: pyte.ByteStream, first_wait: float, quiet: float = 1.5) -> None:
    """Feed what the program prints to the screen until it has been silent for a moment."""
    deadline = time.monotonic() + first_wait
    while True:
        ready, _, _ = select.select([terminal], [], [], max(0.0, deadline - time.monotonic()))
        if not ready:
            return
        data = os.read(terminal, 65536)
        stream.feed(data)
        if b"\x1b[6n" in data:  # the program asks where its cursor is
            cursor = stream.listener.cursor
            os.write(terminal, f"\x1b[{cursor.y + 1};{cursor.x + 1}R".encode())
        deadline = time.monotonic() + quiet


def _render_row(screen: pyte.Screen, row: int) -> Text:
    text = Text()
    for column in range(COLUMNS):
        cell = screen.buffer[row][column]
        style = Style(
            color=_convert_colour(cell.fg), bold=cell.bold, italic=cell.italics, underline=cell.underscore
        )
        text.append(cell.data, style)
    text.rstrip()
    return text


def _convert_colour(name: str) -> Color | None:
    if name == "default":
        return None
    is_hexadecimal = re.fullmatch("[0-9a-f]{6}", name) is not None
    return Color.parse(f"#{name}" if is_hexadecimal else NAMED.get(name, name))


if __name__ == "__main__":
    root = Path(__file__).parent.parent
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else root / "docs" / "images" / "terminal.svg")
