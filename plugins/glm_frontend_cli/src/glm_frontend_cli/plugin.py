"""What core asks of this plugin: its name, its options, and where it starts."""

from __future__ import annotations

from glm_core import hookimpl
from glm_core.records import FrontendInfo, Option

GLM_API_VERSION = 2


@hookimpl
def describe_frontend() -> FrontendInfo:
    """Describe ``glm run cli``."""
    return FrontendInfo(
        "cli",
        "chat in the terminal; reads questions line by line when piped",
        run="glm_frontend_cli._session:run",
        options=(
            Option("system", "instructions that stand before the conversation"),
            Option("load", "conversation file to go on with: from /save, or exported by the web page"),
            Option("plain", "plain text: no colours, no Markdown, no line editing", type=bool, default=False),
            Option("history", "remember questions in a file for the next time", type=bool, default=True),
            Option("temperature", "0 is greedy; higher is more varied", type=float),
            Option("top_p", "smallest set of tokens whose probability exceeds it", type=float),
            Option("top_k", "only that many most likely tokens; 0 = all", type=int),
            Option("max_length", "tokens of prompt and answer together at most", type=int),
            Option("max_new_tokens", "tokens of one answer at most", type=int),
            Option("repetition_penalty", "above 1 discourages repetition", type=float),
            Option("seed", "makes answers repeatable", type=int),
        ),
    )
