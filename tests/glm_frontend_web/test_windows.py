"""Windows that close are forgotten; those that only lost their connection for a moment are not."""

from __future__ import annotations

import asyncio
import json
from types import SimpleNamespace
from typing import Any

import pytest
from glm_frontend_web._windows import WindowKeeper, find_window
from patience import wait_until
from web_client import RawWindow
from web_support import Site, site

MEGABYTE = json.dumps(
    {
        "version": 1,
        "messages": [
            {"role": "user", "content": "long"},
            {"role": "assistant", "content": "word " * 200_000},
        ],
    }
)


def test_what_closed_windows_held_is_freed() -> None:
    """After six windows of a megabyte have closed, neither they nor what gradio kept of them are there."""
    with site(grace_seconds=0.2) as served:
        before = served.script.count_windows()
        windows = [RawWindow(served.url) for _ in range(6)]
        for window in windows:
            with window:
                assert "Imported" in window.import_text("long.json", MEGABYTE)
                assert served.script.count_windows()["states"] > before["states"]
        wait_until(lambda: served.script.count_windows() == before, seconds=60)


def test_a_window_without_any_connection_is_freed_too() -> None:
    """A program that only posts events leaves nothing behind either."""
    with site(grace_seconds=0.2) as served:
        before = served.script.count_windows()
        with RawWindow(served.url) as window:
            for number in range(5):
                window.name = f"only-a-name-{number}"
                window.trigger(None, "load")
        wait_until(lambda: served.script.count_windows() == before, seconds=60)


def test_an_open_window_keeps_its_conversation_however_long_nothing_happens() -> None:
    """Only a closed connection counts, not silence."""
    with site(grace_seconds=0.1) as served, RawWindow(served.url) as window:
        window.import_text("long.json", MEGABYTE)
        alone = served.script.count_windows()
        with RawWindow(served.url):  # its closing makes the server look for windows that were left
            pass
        wait_until(lambda: served.script.count_windows() == alone, seconds=60)
        assert "word word" in window.trigger("export-json", "click", [None, "", "base", 0, 1, 0.5])


def test_a_forgotten_window_says_so_and_loses_nothing_silently(scripted_site: Site) -> None:
    """Whoever comes back too late is told to reload, and the model is not asked without the conversation."""
    with RawWindow(scripted_site.url) as window:
        window.ask("remembered")
        window.name = f"{window.name}-forgotten"
        assert "its conversation has ended" in window.ask("go on")
        assert scripted_site.script.last_request().messages[-1].content == "remembered"
        for part, event in (("undo", "click"), ("clear", "click"), ("export-json", "click")):
            inputs = [None, "", "base", 0, 1, 0.5] if part == "export-json" else [None]
            assert "its conversation has ended" in window.trigger(part, event, inputs)


def test_a_window_that_comes_back_in_time_is_kept() -> None:
    """A connection that breaks and begins again within the grace period changes nothing."""
    keeper, kept = make_keeper({"mine": 1, "other": 2}, grace_seconds=0.2)

    async def break_and_return() -> None:
        await connect(keeper, "mine")
        connection = asyncio.create_task(connect(keeper, "mine", seconds=2.0))
        await asyncio.sleep(1.0)
        assert list(kept) == ["mine"]
        connection.cancel()

    asyncio.run(break_and_return())


def test_a_window_whose_answer_still_comes_is_kept() -> None:
    """Also without a connection: gradio ends the answer by itself."""
    keeper, kept = make_keeper({"mine": 1}, grace_seconds=0.05, running=["mine"])

    async def leave() -> None:
        await connect(keeper, "mine")
        await asyncio.sleep(0.5)

    asyncio.run(leave())
    assert list(kept) == ["mine"]


@pytest.mark.parametrize(
    ("path", "query", "window"),
    [
        ("/gradio_api/heartbeat/abc", b"", "abc"),
        ("/gradio_api/queue/data", b"session_hash=abc", "abc"),
        ("/gradio_api/queue/data", b"", None),
        ("/gradio_api/queue/join", b"session_hash=abc", None),
        ("/", b"", None),
    ],
)
def test_the_connections_of_a_window_are_known_by_their_address(
    path: str, query: bytes, window: str | None
) -> None:
    """The heartbeat and the updates of an answer; nothing else holds a window."""
    assert find_window({"type": "http", "path": path, "query_string": query}) == window


def make_keeper(
    states: dict[str, Any], *, grace_seconds: float, running: Any = ()
) -> tuple[WindowKeeper, dict[str, Any]]:
    """A keeper of these windows around an application that waits, and what is kept of them."""

    async def wait(scope: Any, receive: Any, send: Any) -> None:
        await asyncio.sleep(scope["seconds"])

    gradio_app = SimpleNamespace(state_holder=SimpleNamespace(session_data=states, time_last_used={}))
    queue = SimpleNamespace(
        pending_event_ids_session={},
        pending_messages_per_session={},
        active_jobs=[None, [SimpleNamespace(session_hash=name) for name in running]],
    )
    blocks = SimpleNamespace(_queue=queue)
    return WindowKeeper(wait, gradio_app, blocks, grace_seconds=grace_seconds), states


async def connect(keeper: WindowKeeper, window: str, *, seconds: float = 0.0) -> None:
    """Hold the connection of a window for a time."""
    scope = {"type": "http", "path": f"/gradio_api/heartbeat/{window}", "seconds": seconds}
    await keeper(scope, None, None)  # type: ignore[arg-type]
