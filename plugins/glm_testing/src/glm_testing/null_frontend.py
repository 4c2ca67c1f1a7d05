"""The smallest complete frontend: asks one question and prints the answer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from glm_core import hookimpl
from glm_core.records import FrontendInfo, OpenModel, Option

GLM_API_VERSION = 2


@hookimpl
def describe_frontend() -> FrontendInfo:
    """Describe ``glm run null --question TEXT``."""
    return FrontendInfo(
        "null",
        "asks one question and prints the answer",
        run="glm_testing.null_frontend:run",
        options=(Option("question", "what to ask", default="hello world"),),
    )


def run(open_model: OpenModel, options: Mapping[str, Any]) -> None:
    """Open the model, ask, print (without what would control the terminal), close."""
    with open_model() as model:
        reply, _ = model.chat(options["question"])
        print("".join(character for character in reply if character.isprintable() or character == "\n"))
