"""What core asks of this plugin: its name, its options, and where it starts."""

from __future__ import annotations

from glm_core import hookimpl
from glm_core.records import FrontendInfo, Option

GLM_API_VERSION = 2


@hookimpl
def describe_frontend() -> FrontendInfo:
    """Describe ``glm run web``."""
    return FrontendInfo(
        "web",
        "chat in the browser",
        run="glm_frontend_web._serving:run",
        options=(
            Option("host", "address to listen on", default="127.0.0.1"),
            Option("port", "TCP port to listen on; 0 takes a free one", type=int, default=7860),
            Option("auth", "USER:PASS that visitors must give; GLM_WEB_AUTH in the environment is safer"),
            Option(
                "insecure",
                "let others in without a password, as --host or --share say",
                type=bool,
                default=False,
            ),
            Option("share", "make a public link through gradio's relay", type=bool, default=False),
            Option("inbrowser", "open the page in a browser", type=bool, default=False),
            Option("root_path", "path under which a reverse proxy serves the page, such as /chat"),
            Option("allowed_hosts", "further host names that the page answers to, with commas between"),
            Option(
                "with_api", "serve the HTTP API beside the page, on the same model", type=bool, default=False
            ),
            Option("api_key", "key of the HTTP API; GLM_API_KEY in the environment is safer"),
            Option("adapters_dir", "folder that the API's clients may load adapters from; default none"),
        ),
    )
