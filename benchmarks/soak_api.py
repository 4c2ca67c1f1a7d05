"""Does the HTTP server lose or mix answers, leak slots or memory, or stop answering /health under load?

    python benchmarks/soak_api.py

Starts ``glm run api`` on a small ChatGLM3 with random weights (`soak_server`) and sends it 500 requests from
32 clients at a time: whole answers and streams, with shared system prompts, ``n``, tools and adapters
(`soak_cases`). A quarter leave midway, some read slowly, some close their sending half, some ask for what is
refused, some send hostile bodies; meanwhile adapters are loaded, asked and removed. Every answer is greedy or
seeded, and is compared with the one that the same server gave alone before. The last line is JSON; the exit
status is 1 if an answer was lost or different, a status wrong, or a slot leaked.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import sys
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
from soak_cases import (
    GUESTS,
    HOSTILE,
    KEY,
    REFUSED,
    Case,
    build_cases,
    build_guest_case,
    merge_chunks,
    read_answer,
)
from soak_server import start_server, write_files

KINDS = (
    *("read", "leave", "stream", "slow", "hostile", "leave", "half closed", "refused", "stream"),
    *("leave", "stream", "read", "slow", "leave", "hostile"),
)
"""What the clients do, in turn; about a quarter leave."""
HEALTH_PERIOD = 0.05
PATIENCE = 600.0
HEADERS = {"authorization": f"Bearer {KEY}"}


@dataclass
class Tally:
    """What happened.

    Attributes:
        counts: of every kind of outcome.
        problems: a line for each lost, different or wrongly refused answer.
        health: seconds that each ``/health`` took.
        pieces: of text received.
    """

    counts: Counter[str] = field(default_factory=Counter)
    problems: list[str] = field(default_factory=list)
    health: list[float] = field(default_factory=list)
    pieces: int = 0

    def add_problem(self, kind: str, detail: str) -> None:
        """Note a fault of the server."""
        self.counts[kind] += 1
        self.problems.append(f"{kind}: {detail[:500]}")

    def compare(self, kind: str, case: Case, found: Any) -> None:
        """Note an answer as good, or as other than it was alone."""
        if found == case.expected:
            self.counts[kind] += 1
        else:
            self.add_problem(
                "different", f"{kind}, {case.name}: got {found!r}, alone it was {case.expected!r}"
            )


def main() -> int:
    """Run the soak; 1 if the server did anything wrong."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--requests", type=int, default=500)
    parser.add_argument("--clients", type=int, default=32)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("server", nargs="*", help="more options of glm run api, after --")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        files = write_files(Path(name))
        with start_server(files, options.server) as url:
            report = asyncio.run(run_soak(url, options.requests, options.clients, options.seed))
    for label, value in report.items():
        print(f"{label:32} {value}")
    print(json.dumps(report))
    wrong = ("lost", "different", "wrong_status", "leaked_slots", "leaked_adapters")
    return int(any(report[label] for label in wrong))


async def run_soak(url: str, requests: int, clients: int, seed: int) -> dict[str, Any]:
    """Take the reference answers, then the load, then look at what is left."""
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=clients)
    options: dict[str, Any] = {"base_url": url, "timeout": PATIENCE, "limits": limits, "trust_env": False}
    async with httpx.AsyncClient(headers=HEADERS, **options) as client:
        cases = build_cases()
        for case in cases:
            case.expected = await ask_whole(client, case)
        guests = [await ask_guest(client, number) for number in range(GUESTS)]
        before = await read_metrics(client)
        tally = Tally()
        chance = random.Random(seed)  # noqa: S311 - repeatable, not secret
        plan = [
            (KINDS[number % len(KINDS)], chance.choice(cases), chance.random()) for number in range(requests)
        ]
        places = asyncio.Semaphore(clients)
        stop = asyncio.Event()
        beside = [
            asyncio.create_task(watch_health(url, tally, stop)),
            asyncio.create_task(change_adapters(client, tally, guests, stop)),
        ]
        began = time.perf_counter()

        async def run_step(kind: str, case: Case, fraction: float) -> None:
            async with places:
                await run_request(client, tally, kind, case, fraction)

        await asyncio.gather(*(run_step(*step) for step in plan))
        seconds = time.perf_counter() - began
        stop.set()
        await asyncio.gather(*beside)
        after = await wait_until_idle(client)
    for line in tally.problems[:20]:
        print(line, file=sys.stderr)
    return build_report(tally, before, after, seconds)


async def run_request(
    client: httpx.AsyncClient, tally: Tally, kind: str, case: Case, fraction: float
) -> None:
    """Send one request, from its plan to its outcome."""
    try:
        match kind:
            case "refused" | "hostile":
                await expect_refusal(client, tally, kind, fraction)
            case "read":
                tally.compare(kind, case, await ask_whole(client, case, tally))
            case "half closed":
                tally.compare(kind, case, await ask_half_closed(client, case))
            case _:
                await read_stream(client, tally, kind, case, fraction)
    except (httpx.HTTPError, OSError, ValueError, KeyError) as error:
        tally.add_problem("lost", f"{kind}, {case.name}: {type(error).__name__}: {error}")


async def ask_whole(client: httpx.AsyncClient, case: Case, tally: Tally | None = None) -> Any:
    """Return a whole answer; a full queue is asked again."""
    while True:
        response = await client.post(case.path, json=case.body)
        if response.status_code != 429:
            response.raise_for_status()
            return read_answer(response.json())
        if tally is not None:
            tally.counts["asked again after 429"] += 1
        await asyncio.sleep(float(response.headers["retry-after"]))


async def ask_half_closed(client: httpx.AsyncClient, case: Case) -> Any:
    """Return a whole answer, asked over a connection whose sending half is closed after the body."""
    body = json.dumps(case.body).encode()
    head = f"POST {case.path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    head += f"Authorization: Bearer {KEY}\r\nContent-Length: {len(body)}\r\n\r\n"
    while True:
        reader, writer = await asyncio.open_connection(client.base_url.host, client.base_url.port)
        try:
            writer.write(head.encode() + body)
            writer.write_eof()
            answer = await reader.read()
        finally:
            writer.close()
        status = answer.split(b" ", 2)[1]
        if status != b"429":
            return read_answer(json.loads(answer.partition(b"\r\n\r\n")[2]))
        await asyncio.sleep(1)


async def read_stream(
    client: httpx.AsyncClient, tally: Tally, kind: str, case: Case, fraction: float
) -> None:
    """Read a stream to its end, slowly, or only a part of it."""
    enough = int(case.num_pieces * fraction) + 1 if kind == "leave" else None
    chunks: list[dict[str, Any]] = []
    finished = False
    async for chunk in iterate_chunks(client, tally, case):
        if chunk is None:
            finished = True
            break
        chunks.append(chunk)
        tally.pieces += 1
        if enough is not None and len(chunks) >= enough:
            tally.counts["leave"] += 1
            return
        if kind == "slow":
            await asyncio.sleep(0.05)
    if finished:
        tally.compare(kind, case, merge_chunks(chunks))
    else:
        tally.add_problem("lost", f"{case.name}: the stream ended after {len(chunks)} chunks")


async def iterate_chunks(
    client: httpx.AsyncClient, tally: Tally, case: Case
) -> AsyncIterator[dict[str, Any] | None]:
    """Yield the chunks of a stream, then ``None`` if it ended properly; a full queue is asked again."""
    while True:
        async with client.stream("POST", case.path, json={**case.body, "stream": True}) as response:
            if response.status_code == 429:
                tally.counts["asked again after 429"] += 1
                wait = float(response.headers["retry-after"])
            else:
                response.raise_for_status()
                async for line in response.aiter_lines():
                    if line == "data: [DONE]":
                        yield None
                    elif line.startswith("data: "):
                        yield json.loads(line[6:])
                return
        await asyncio.sleep(wait)


async def expect_refusal(client: httpx.AsyncClient, tally: Tally, kind: str, fraction: float) -> None:
    """Send something that must be refused."""
    requests = REFUSED if kind == "refused" else HOSTILE
    path, content, status = requests[int(fraction * len(requests))]
    headers = {"content-type": "application/json"}
    answer = await client.post(path, content=content, headers=headers)
    if answer.status_code == status and "error" in answer.json():
        tally.counts[kind] += 1
    else:
        tally.add_problem("wrong_status", f"{kind}: expected {status}, got {answer.status_code}")


async def ask_guest(client: httpx.AsyncClient, number: int) -> Case:
    """Load an adapter, ask it, remove it; return the case with its answer."""
    case = build_guest_case(number)
    added = await client.post("/v1/adapters", json={"name": f"guest{number}", "path": f"guest{number}"})
    added.raise_for_status()
    case.expected = await ask_whole(client, case)
    (await client.delete(f"/v1/adapters/guest{number}")).raise_for_status()
    return case


async def change_adapters(
    client: httpx.AsyncClient, tally: Tally, guests: list[Case], stop: asyncio.Event
) -> None:
    """Have adapters come, answer as they did alone, and go, until told to stop; wrong ones are refused."""
    wrong = {"damaged": 400, "../model": 403, "link": 403}
    number = 0
    while not stop.is_set():
        expected = guests[number % GUESTS].expected
        for path, status in wrong.items():
            answer = await client.post("/v1/adapters", json={"name": "wrong", "path": path})
            if answer.status_code != status:
                tally.add_problem("wrong_status", f"adapter {path}: {answer.status_code} {answer.text}")
        try:
            case = await ask_guest(client, number % GUESTS)
        except httpx.HTTPError as error:
            tally.add_problem("lost", f"guest {number % GUESTS}: {error}")
        else:
            case.expected, found = expected, case.expected
            tally.compare("adapters that came and went", case, found)
        number += 1


async def watch_health(url: str, tally: Tally, stop: asyncio.Event) -> None:
    """Ask /health again and again on a connection of its own, without a key."""
    async with httpx.AsyncClient(base_url=url, timeout=PATIENCE, trust_env=False) as client:
        while not stop.is_set():
            began = time.perf_counter()
            answer = await client.get("/health")
            tally.health.append(time.perf_counter() - began)
            if answer.status_code != 200:
                tally.add_problem("wrong_status", f"/health {answer.status_code}")
            await asyncio.sleep(HEALTH_PERIOD)


async def read_metrics(client: httpx.AsyncClient) -> dict[str, float]:
    """Return every unlabelled sample of /read_metrics."""
    text = (await client.get("/metrics")).text
    samples = (line.split(" ") for line in text.splitlines() if not line.startswith("#") and "{" not in line)
    return {name: float(value) for name, value in samples}


async def wait_until_idle(client: httpx.AsyncClient) -> dict[str, float]:
    """Return the metrics once nothing runs any more, or after ten seconds."""
    for _ in range(100):
        after = await read_metrics(client)
        if not count_leaked(after):
            break
        await asyncio.sleep(0.1)
    return after


def count_leaked(samples: dict[str, float]) -> int:
    """Return what is still in use: answers, slots, places in the queue."""
    names = ("glm_answers", "glm_slots_active", "glm_queue_waiting")
    return int(sum(samples.get(name, 0.0) for name in names))


def build_report(
    tally: Tally, before: dict[str, float], after: dict[str, float], seconds: float
) -> dict[str, Any]:
    """Return everything worth telling."""
    health = sorted(tally.health)
    rss = "process_resident_memory_bytes"
    good = (
        "read",
        "stream",
        "slow",
        "half closed",
        "leave",
        "refused",
        "hostile",
        "adapters that came and went",
    )
    return {
        "requests": sum(tally.counts.values()) - tally.counts["asked again after 429"],
        **{kind: tally.counts[kind] for kind in good},
        **{kind: tally.counts[kind] for kind in ("lost", "different", "wrong_status")},
        "asked_again_after_429": tally.counts["asked again after 429"],
        "disconnects_seen_by_server": int(after["glm_disconnects_total"] - before["glm_disconnects_total"]),
        "leaked_slots": count_leaked(after),
        "leaked_adapters": int(after["glm_adapters"] - before["glm_adapters"]),
        "rss_before_mb": round(before[rss] / 2**20, 1),
        "rss_after_mb": round(after[rss] / 2**20, 1),
        "open_files_before": int(before.get("process_open_fds", 0)),
        "open_files_after": int(after.get("process_open_fds", 0)),
        "health_requests": len(health),
        "health_p50_ms": round(1000 * health[len(health) // 2], 1),
        "health_p99_ms": round(1000 * health[min(len(health) - 1, int(0.99 * len(health)))], 1),
        "health_max_ms": round(1000 * health[-1], 1),
        "seconds": round(seconds, 1),
        "chunks_per_second": round(tally.pieces / seconds, 1),
    }


if __name__ == "__main__":
    sys.exit(main())
