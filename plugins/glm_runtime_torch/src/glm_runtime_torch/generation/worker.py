"""The worker: the one thread that computes, from when there is something to do until there is no more."""

from __future__ import annotations

import atexit
import threading
import weakref

import torch

from glm_core import ClosedError

from .scheduler import Scheduler

# The thread ends when nothing was asked of it for so long, and the next request starts another: a thread
# holds on to the model, and a model that is forgotten without being closed could never be collected.
IDLE_SECONDS = 2.0

# A thread that is inside torch when Python takes the process down ends it with an abort.
_WORKERS: weakref.WeakSet[Worker] = weakref.WeakSet()


@atexit.register
def _close_all() -> None:
    for worker in list(_WORKERS):
        worker.close()


class Worker:
    """Does what a scheduler says, on a thread of its own.

    Args:
        scheduler: whose requests it works on; its lock also guards which thread there is.
    """

    def __init__(self, scheduler: Scheduler) -> None:
        self._scheduler = scheduler
        self._thread: threading.Thread | None = None
        _WORKERS.add(self)

    @property
    def is_running(self) -> bool:
        """Whether there is a thread now."""
        return self._thread is not None

    def ensure_running(self) -> None:
        """Start the thread if there is none."""
        with self._scheduler.changed:
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="glm-engine", daemon=True)
                self._thread.start()

    def close(self) -> None:
        """End running and waiting answers with `ClosedError`; returns when the thread has ended."""
        self._scheduler.close()
        thread = self._thread
        if thread is not None and thread is not threading.current_thread():
            thread.join()

    @torch.inference_mode()
    def _run(self) -> None:
        """Admit, prefill a little, decode one step, again."""
        while self._has_work():
            try:
                self._scheduler.run_once()
            except BaseException as error:  # our own bug: nobody may be left waiting for it
                self._retire(error)
                raise
        if self._scheduler.is_closed:
            self._retire(ClosedError("the model was closed while it was answering"))

    def _has_work(self) -> bool:
        with self._scheduler.changed:
            if self._scheduler.admit(IDLE_SECONDS):
                return True
            # Under the same lock as the last look, so that no request comes between unseen.
            self._thread = None
            return False

    def _retire(self, error: BaseException) -> None:
        with self._scheduler.changed:
            self._thread = None
            self._scheduler.fail_all(error)
