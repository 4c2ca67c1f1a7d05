"""Waking all who wait for a token, whichever answer it is of."""

from __future__ import annotations

import asyncio


class TokenSignal:
    """Wakes those who wait for a token of any answer, such as a probe of readiness."""

    def __init__(self) -> None:
        self._event = asyncio.Event()

    def announce(self) -> None:
        """Report that a token has come."""
        self._event.set()
        self._event = asyncio.Event()

    async def wait(self) -> None:
        """Wait for the next token."""
        await self._event.wait()
