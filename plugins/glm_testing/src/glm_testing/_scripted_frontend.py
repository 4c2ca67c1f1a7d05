"""Run one frontend on the scripted model in a process of its own, as ``glm run`` would start it.

The first argument is a folder with ``start.json`` (``run``, ``options``, and in ``reserved`` the descriptor
of a socket that keeps the frontend's port for it, if it has one); what happens to the model
is written there as lines of ``events.jsonl``. Ends with 2 and one sentence for what the user can mend,
and with 130 after Ctrl-C, as the ``glm`` command does.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
import threading
from pathlib import Path
from typing import Any

from glm_core.chat_model import ChatModel
from glm_core.errors import GlmError
from glm_core.frontends import start_frontend
from glm_core.records import FrontendInfo

from .scripted_model import ScriptedModel


def main(folder: Path) -> int:
    """Start the frontend and return its exit status."""
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it
    wanted = json.loads((folder / "start.json").read_text("utf-8"))
    for descriptor in wanted["reserved"]:
        _hold_port(socket.socket(fileno=descriptor))
    lock = threading.Lock()

    def note(event: str, question: str) -> None:
        line = json.dumps({"event": event, "question": question})
        with lock, (folder / "events.jsonl").open("a", encoding="utf-8") as file:
            file.write(f"{line}\n")

    def open_model() -> ChatModel:
        note("opened", "")
        return ScriptedModel(note=note).model

    try:
        start_frontend(FrontendInfo("checked", "", wanted["run"]), open_model, wanted["options"])
    except GlmError as error:
        print(f"glm: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    return 0


def _hold_port(reserved: socket.socket) -> None:
    """Keep a port until the process ends, or until somebody here binds it who would be refused otherwise."""
    os.set_inheritable(reserved.fileno(), False)
    port = reserved.getsockname()[1]

    def release_if_in_the_way(event: str, arguments: tuple[Any, ...]) -> None:
        if event != "socket.bind":
            return
        bound, address = arguments
        # Beside a socket that is bound and does not listen, only a socket with this option may be bound too.
        reuses = bound.getsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR)
        if isinstance(address, tuple) and address[1] == port and not reuses:
            reserved.close()

    sys.addaudithook(release_if_in_the_way)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
