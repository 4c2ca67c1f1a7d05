"""A user's machine that downloads from a stand-in hub, each download in a process of its own.

The hubs' clients read their environment when they are imported.
"""

from __future__ import annotations

import atexit
import json
import os
import random
import socket
import sys
from dataclasses import dataclass, field
from pathlib import Path

from child_process import ChildProcess

COMMIT, NEWER = "a" * 40, "b" * 40
WEIGHTS = random.Random(6).randbytes(300_000)
OTHER_WEIGHTS = WEIGHTS[::-1]
DATA = {"config.json": b'{"model_type": "chatglm"}', "ice_text.model": b"pieces"}
PYTHON = {"modeling_chatglm.py": b"raise SystemExit", "README.md": b"# A model"}

DRIVER = """
import json, logging, sys
from glm_core.errors import HubError
from glm_hub import download

logging.basicConfig(format="%(message)s")
try:
    result = {"folder": str(download(**json.loads(sys.argv[1])))}
except HubError as error:
    result = {"error": str(error)}
print(json.dumps(result))
"""


@dataclass
class Machine:
    """A user's machine: its home, its environment, and the hub it talks to."""

    home: Path
    hub: str
    environment: dict[str, str] = field(default_factory=dict)

    def start(self, *command: str, **streams: int) -> ChildProcess:
        """Run a Python program on it."""
        base = {"PATH": os.environ["PATH"], "HOME": str(self.home), "PYTHONPATH": os.pathsep.join(sys.path)}
        environment = base | {"NO_PROXY": "*"} | self.environment
        return ChildProcess(sys.executable, *command, environment=environment, folder=self.home, **streams)

    def begin(
        self, name: str = "org/name", *, revision: str | None = None, offline: bool = False, **streams: int
    ) -> ChildProcess:
        """Begin a download."""
        wanted = {"repository": name, "revision": revision, "offline": offline, "hub": self.hub}
        return self.start("-c", DRIVER, json.dumps(wanted), **streams)

    def download(self, name: str = "org/name", *, revision: str | None = None, offline: bool = False) -> Path:
        """Download; nothing but the result goes to standard output."""
        result = self._result(name, revision, offline)
        assert "folder" in result, result
        return Path(result["folder"])

    def failure(self, name: str = "org/name", *, revision: str | None = None, offline: bool = False) -> str:
        """The one sentence, or two, with which a download fails."""
        result = self._result(name, revision, offline)
        assert "error" in result, result
        message = result["error"]
        assert message.count("\n") == 0
        return message

    def _result(self, name: str, revision: str | None, offline: bool) -> dict[str, str]:
        with self.begin(name, revision=revision, offline=offline) as process:
            done = process.finish()
        self.notices = done.stderr
        assert done.stdout, self.notices
        result: dict[str, str] = json.loads(done.stdout)
        return result

    def glm(self, *arguments: str) -> tuple[int, str, str]:
        """Exit status, standard output and standard error of a ``glm`` command."""
        with self.start("-m", "glm_core", *arguments) as process:
            done = process.finish()
        return done.returncode, done.stdout, done.stderr


def contents(folder: Path) -> dict[str, bytes]:
    """Every file of a folder."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()
    }


def nowhere() -> str:
    """Return an address at which nobody listens, and nobody else can: it stays taken as long as we run."""
    taken = socket.socket()
    atexit.register(taken.close)
    taken.bind(("127.0.0.1", 0))
    return f"http://127.0.0.1:{taken.getsockname()[1]}"
