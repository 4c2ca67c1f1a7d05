"""From the bytes of tokens to text that is final: whole characters, and nothing of a stop string."""

from __future__ import annotations

import codecs
from collections.abc import Sequence


class TextStream:
    """The text of one answer, as far as it is certain.

    Attributes:
        stopped: whether a stop string was found, after which nothing more comes.

    Args:
        stop: the answer ends before the first of these strings.
    """

    def __init__(self, stop: Sequence[str]) -> None:
        self.stopped = False
        self._stop = stop
        self._held = ""  # text that may turn out to be the beginning of a stop string
        # A token may end in the middle of a character: the decoder keeps its first bytes until the
        # rest comes. Bytes that no continuation makes a character are left out.
        self._decoder = codecs.getincrementaldecoder("utf-8")("ignore")

    def add(self, piece: bytes) -> str:
        """Take in a token's bytes and return the text that can no longer change."""
        self._held += self._decoder.decode(piece)
        found = [self._held.index(stop) for stop in self._stop if stop in self._held]
        if found:
            self.stopped = True
            self._held = self._held[: min(found)]
            return self.finish()
        certain = len(self._held) - self._measure_doubtful_end()
        text, self._held = self._held[:certain], self._held[certain:]
        return text

    def finish(self) -> str:
        """Return what was held back; the answer ends here."""
        text, self._held = self._held, ""
        return text

    def _measure_doubtful_end(self) -> int:
        """Return how many of the last characters may be the beginning of a stop string."""
        lengths = (
            length
            for stop in self._stop
            for length in range(1, len(stop))
            if self._held.endswith(stop[:length])
        )
        return max(lengths, default=0)
