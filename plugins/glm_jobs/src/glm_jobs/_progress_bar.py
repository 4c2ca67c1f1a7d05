"""The progress of a long job on standard error: one bar on a terminal, some lines anywhere else."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

BAR_PLACES = 30  # leaves 50 columns of a narrow terminal for the text
SECONDS_BETWEEN_DRAWINGS = 0.1  # smooth to the eye; a fast job would spend its time on drawing
LINES = 10  # in a log: one for each tenth
ALMOST_DONE = 0.995  # from here on it would print as 100 %, before it is true


class _Report(Protocol):
    @property
    def finished(self) -> bool: ...

    @property
    def message(self) -> str: ...


R = TypeVar("R", bound=_Report)


@dataclass(frozen=True)
class Drawing:
    """What a bar shows of one report.

    Attributes:
        done: how much is done, in any unit.
        total: how much there is to do; 0 counts as all done.
        text: stands behind the bar.
        is_due: draw it even if another one was drawn a moment ago.
    """

    done: float
    total: float
    text: str
    is_due: bool = False


def draw_progress(
    reports: Generator[R, None, None],
    describe: Callable[[R], Drawing | None],
    *,
    time_left: bool = True,
    lines: int = LINES,
) -> Generator[R, None, None]:
    """Hand the reports on, and draw each after its reader has dealt with it.

    On a terminal a bar is drawn over itself, and wiped where the reader will write a message. Elsewhere, in a
    log or a pipe, about ``lines`` lines are written in all.

    Args:
        reports: of a job; closed with this generator.
        describe: from a report to what is shown of it; ``None`` leaves it undrawn.
        time_left: estimate the remaining time from what was done since the first drawing.
        lines: lines to write where there is no terminal.
    """
    stream: Any = sys.stderr
    with contextlib.closing(reports):
        if stream is None:
            yield from reports
            return
        bar = _Bar(stream, lines, time_left=time_left)
        try:
            for report in reports:
                if report.message:
                    bar.wipe()
                yield report
                drawing = describe(report)
                if drawing is not None:
                    bar.draw(drawing)
        finally:
            bar.close()


class _Bar:
    def __init__(self, stream: Any, lines: int, *, time_left: bool) -> None:
        self._stream = stream
        self._is_terminal: bool = stream.isatty()
        self._lines = lines
        self._time_left = time_left
        self._next_line = 0.0
        self._drawn_at = 0.0  # 0 = never
        self._first: tuple[float, float] | None = None  # when, and how much was done

    def wipe(self) -> None:
        """Clear the bar, so that a message gets a line of its own."""
        if self._is_terminal and self._drawn_at:
            self._stream.write("\r\x1b[K")

    def draw(self, drawing: Drawing) -> None:
        """Draw, or leave it until more is done."""
        now = time.monotonic()
        self._first = self._first or (now, drawing.done)
        share = drawing.done / drawing.total if drawing.total else 1.0
        line = f"{share:4.0%}  {drawing.text}{self._format_time_left(now, drawing)}"
        if self._is_terminal:
            if drawing.is_due or now - self._drawn_at >= SECONDS_BETWEEN_DRAWINGS:
                self._drawn_at = now
                full = int(share * BAR_PLACES)
                self._stream.write(f"\r\x1b[K[{'#' * full}{'.' * (BAR_PLACES - full)}] {line}")
        elif drawing.is_due or self._next_line <= share < ALMOST_DONE:
            self._next_line = (int(share * self._lines) + 1) / self._lines
            self._stream.write(f"{line}\n")
        self._stream.flush()

    def close(self) -> None:
        """Leave the bar as it is and go to the next line."""
        if self._is_terminal and self._drawn_at:
            self._stream.write("\n")

    def _format_time_left(self, now: float, drawing: Drawing) -> str:
        done = drawing.done
        if not self._time_left or self._first is None or not self._first[1] < done < drawing.total:
            return ""
        began, first = self._first
        left = int((now - began) / (done - first) * (drawing.total - done))
        return f", {left // 3600}:{left // 60 % 60:02}:{left % 60:02} left"
