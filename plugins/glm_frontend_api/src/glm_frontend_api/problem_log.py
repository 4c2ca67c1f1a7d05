"""Telling those who run the server where something failed, without telling what anybody asked."""

from __future__ import annotations

import logging
from contextvars import ContextVar

logger = logging.getLogger("glm.api")

request_id: ContextVar[str] = ContextVar("request_id", default="unknown")
"""Of the request that this task works for; the same as in its ``X-Request-Id``."""


def log_problem(problem: BaseException) -> None:
    """Log where a failure comes from, but never its message: that may hold somebody's prompt."""
    chain = []
    error: BaseException | None = problem
    while error is not None:
        trace = error.__traceback__
        while trace is not None and trace.tb_next is not None:
            trace = trace.tb_next
        where = f" at {trace.tb_frame.f_code.co_filename}:{trace.tb_lineno}" if trace else ""
        chain.append(f"{type(error).__name__}{where}")
        error = error.__cause__
    logger.error(
        "request %s failed: %s (set GLM_DEBUG=1 for the details)",
        request_id.get(),
        ", caused by ".join(chain),
    )
    logger.debug("details of the failure", exc_info=problem)
