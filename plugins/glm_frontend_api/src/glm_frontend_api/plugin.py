"""What core asks of this plugin: its name, its options, and where it starts."""

from __future__ import annotations

from glm_core import hookimpl
from glm_core.records import FrontendInfo, Option

GLM_API_VERSION = 2


@hookimpl
def describe_frontend() -> FrontendInfo:
    """Describe ``glm run api``."""
    return FrontendInfo(
        "api",
        "serves HTTP: OpenAI's routes, the original's POST /, health and metrics",
        run="glm_frontend_api.server:run",
        options=(
            Option("host", "address to bind to; another than loopback needs a key", default="127.0.0.1"),
            Option("port", "TCP port; 0 takes any free one", type=int, default=8000),
            Option("api_key", "clients must send it; better set GLM_API_KEY, which no process list shows"),
            Option("insecure", "serve other machines without a key", type=bool, default=False),
            Option("workers", "processes; only 1 is possible", type=int, default=1),
            Option("served_model_name", "what clients call the model; default is its own name"),
            Option("max_tokens", "tokens of one answer at most; 0 = what the model can", type=int, default=0),
            Option("max_body_bytes", "bytes of a request at most", type=int, default=2**20),
            Option("max_requests", "answers at the same time, waiting ones included", type=int, default=256),
            Option("time_limit", "seconds that one request may take", type=float, default=600.0),
            Option(
                "drain_seconds", "seconds to finish running answers when stopped", type=float, default=30.0
            ),
            Option("root_path", "path under which a proxy serves this, such as /glm", default=""),
            Option("cors_origin", "web origins, by commas, whose pages may call; default none", default=""),
            Option("adapters_dir", "folder that clients with the key may load adapters from; default none"),
        ),
    )
