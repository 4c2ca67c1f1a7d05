"""The hook: what ``glm run jsonl`` is."""

from __future__ import annotations

from glm_core import hookimpl
from glm_core.records import FrontendInfo, Option

GLM_API_VERSION = 2


@hookimpl
def describe_frontend() -> FrontendInfo:
    """Describe ``glm run jsonl``."""
    return FrontendInfo(
        "jsonl",
        "chats over standard input and output, a JSON object a line; for programs",
        run="glm_frontend_jsonl._session:run",
        options=(Option("max_requests", "answers at the same time", type=int, default=16),),
    )
