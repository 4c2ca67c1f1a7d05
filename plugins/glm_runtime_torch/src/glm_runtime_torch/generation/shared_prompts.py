"""One prompt for all answers to one conversation.

A client that asks for ``n`` answers makes n requests, which arrive together, each on a thread of its own.
They share the tuple of messages itself, so the first fits the prompt, and the others wait and take what it
found.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable

from glm_core import ChatRequest, RequestError, Sampling

from .prompt import Prompt

# Conversations whose prompts are remembered: more than one, because the requests of several clients mix. Few,
# because each keeps a whole conversation in memory.
MAX_CONVERSATIONS = 4
# How often one that waits for another's work looks whether it is still wanted.
WAIT_SECONDS = 0.05


class SharedPrompts:
    """Fits a prompt once for all requests over the same messages; safe to use from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._found: OrderedDict[tuple[object, ...], _SharedPrompt] = OrderedDict()

    def get(
        self,
        request: ChatRequest,
        sampling: Sampling,
        capacity: int,
        make: Callable[[], Prompt],
        check: Callable[[], None],
    ) -> Prompt:
        """Return the prompt of a request.

        Args:
            request: a conversation, or bare text.
            sampling: every field set; prompts depend on how long an answer may get.
            capacity: tokens that prompt and answer may have together.
            make: fits the prompt.
            check: called while another thread is waited for; raises what ends the waiting.

        Raises:
            RequestError: what ``make`` raises, for every request over the same messages.
        """
        # By identity: to compare a megabyte of text with all others would cost more than it saves.
        texts = (id(request.messages), id(request.prompt), id(request.tools))
        key = (*texts, request.sampling, sampling, capacity)
        with self._lock:
            # The request is held on to, because ids of objects that are gone are given out again.
            shared = self._found.setdefault(key, _SharedPrompt(request))
            self._found.move_to_end(key)
            if len(self._found) > MAX_CONVERSATIONS:
                self._found.popitem(last=False)
        return shared.get(make, check)


class _SharedPrompt:
    """The prompt of one conversation, once somebody has fitted it."""

    def __init__(self, request: ChatRequest) -> None:
        self._request = request
        self._lock = threading.Lock()
        self._prompt: Prompt | None = None
        self._refusal: RequestError | None = None

    def get(self, make: Callable[[], Prompt], check: Callable[[], None]) -> Prompt:
        while not self._lock.acquire(timeout=WAIT_SECONDS):
            check()
        try:
            if self._refusal is not None:
                raise RequestError(str(self._refusal)) from self._refusal
            if self._prompt is None:
                # Any other error, such as a cancellation, is this request's alone: the next one tries.
                try:
                    self._prompt = make()
                except RequestError as refusal:
                    self._refusal = refusal
                    raise
            return self._prompt
        finally:
            self._lock.release()
