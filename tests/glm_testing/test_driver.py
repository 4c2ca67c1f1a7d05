"""The process in which the kit runs a frontend, and the port that it keeps for it."""

from __future__ import annotations

import contextlib
import os
import socket
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from glm_testing.driver import FrontendProcess
from patience import PATIENCE_SECONDS

FRONTEND = """
import socket
def run(open_model, options):
    server = socket.socket()
    if options["reuse"]:
        server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    for number in range(options["probes"]):  # some look whether the port is free before they listen
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(("127.0.0.1", options["port"]))
    server.bind(("127.0.0.1", options["port"]))
    server.listen()
    print("listening", flush=True)
    while True:
        server.accept()
"""


@pytest.fixture
def start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., FrontendProcess]]:
    """Starts a frontend that listens on a port."""
    (tmp_path / "port_frontend.py").write_text(FRONTEND)
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "run").mkdir()
    process = FrontendProcess("port_frontend:run", {}, tmp_path / "run", PATIENCE_SECONDS)

    def start_with(**options: object) -> FrontendProcess:
        process.start({"reuse": True, "probes": 0, **options})
        return process

    start_with.process = process  # type: ignore[attr-defined]
    yield start_with
    process.kill()


def can_be_bound(port: int, *, reuse: bool = False) -> bool:
    """Whether another program would get a port."""
    with socket.socket() as other, contextlib.suppress(OSError):
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, reuse)
        other.bind(("127.0.0.1", port))
        return True
    return False


@pytest.mark.skipif(os.name != "posix", reason="the port is kept on POSIX systems only")
def test_reserved_port_is_given_to_nobody_else(start: Callable[..., FrontendProcess]) -> None:
    """From the moment it is chosen, not only once the frontend listens."""
    process: FrontendProcess = start.process  # type: ignore[attr-defined]
    port = process.reserve_port()
    assert not can_be_bound(port)
    process.kill()
    assert can_be_bound(port, reuse=True)


@pytest.mark.parametrize("reuse", [True, False])
@pytest.mark.parametrize("probes", [0, 2])
def test_frontend_listens_on_the_port_that_is_kept_for_it(
    reuse: bool, probes: int, start: Callable[..., FrontendProcess]
) -> None:
    """Whether or not it sets SO_REUSEADDR, and if it tries the port before; again after a restart."""
    process: FrontendProcess = start.process  # type: ignore[attr-defined]
    for _ in range(2):
        port = process.reserve_port()
        start(port=port, reuse=reuse, probes=probes)
        process.wait_for_port(port)
        assert process.read_line(0) == "listening"
        assert not can_be_bound(port, reuse=True)


@pytest.mark.skipif(sys.platform != "linux", reason="open descriptors are listed in /proc")
def test_nothing_of_a_reserved_port_is_left_open(start: Callable[..., FrontendProcess]) -> None:
    """Neither in the kit, where it is handed over, nor after a frontend that was never started."""
    process: FrontendProcess = start.process  # type: ignore[attr-defined]
    before = len(os.listdir("/proc/self/fd"))
    process.reserve_port()
    process.reserve_port()
    process.kill()
    assert len(os.listdir("/proc/self/fd")) == before
