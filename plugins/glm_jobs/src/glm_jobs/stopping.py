"""Stopping a long job between two of its steps, so that what it did is kept."""

from __future__ import annotations

import contextlib
import signal
import sys
from collections.abc import Callable
from types import FrameType, TracebackType
from typing import Any, NoReturn

# Ctrl-C, what a service manager or a cluster sends, and what a closed terminal sends; Windows lacks the last.
_SIGNALS = [
    number for name in ("SIGINT", "SIGTERM", "SIGHUP") if (number := getattr(signal, name, None)) is not None
]


class StopSignals:
    """The first signal to stop only asks, once steps are being done.

    A second one, or one before the first step, stops at once.

    A context manager for the main thread; on another one signals stay what they were. A signal that whoever
    started the process wants ignored, as ``nohup`` does with a closed terminal, stays ignored.

    Args:
        tell: called with one line for the user at the first signal.

    Attributes:
        may_wait: whether there is a step to wait for; set by the job.
    """

    def __init__(self, tell: Callable[[str], None]) -> None:
        self.may_wait = False
        self._tell = tell
        self._number: int | None = None
        self._before: dict[int, Any] = {}

    @property
    def is_asked(self) -> bool:
        """Return whether the job shall stop after its step."""
        return self._number is not None

    def raise_stopped(self) -> NoReturn:
        """End the program as the signal would have ended it, now that everything is kept.

        Raises:
            KeyboardInterrupt: it was Ctrl-C.
            SystemExit: it was another one; the status is 128 and its number, as shells count.
        """
        if self._number in (None, signal.SIGINT):
            raise KeyboardInterrupt
        assert self._number is not None
        sys.exit(128 + self._number)

    def __enter__(self) -> StopSignals:
        with contextlib.suppress(ValueError):  # only the main thread may
            for number in _SIGNALS:
                if signal.getsignal(number) != signal.SIG_IGN:
                    self._before[number] = signal.signal(number, self._handle)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _handle(self, number: int, _: FrameType | None) -> None:
        stops_now = self.is_asked or not self.may_wait
        self._number = number
        if stops_now:
            self.raise_stopped()
        self._tell("stopping after this step, its checkpoint is kept; Ctrl-C again stops at once")
