"""Does the HTTP server lose or mix answers, leak slots or memory, or stop answering /health under load?

    python benchmarks/soak_api.py

Starts ``glm run api`` on the demo model and sends it 500 requests from 32 clients at a time: most read
their stream to the end, a third leave midway, some read slowly, some ask for what is refused. Every
answer is greedy or seeded, and is compared with the one that the same server gave alone before. The
last line is JSON; the exit status is 1 if an answer was lost or different, or a slot leaked.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import random
import re
import subprocess
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from typing import Any

import httpx

QUESTIONS = (
    *("How do I quantise a model?", "你好", "怎么安装？", "What is P-Tuning?", "How do I write a plugin?"),
    *(
        "怎么开网页？",
        "Tell me a joke.",
        "Which devices can I use?",
        "怎么用多张显卡？",
        "How do I serve an API?",
    ),
)
SAMPLINGS: tuple[dict[str, Any], ...] = (
    {"temperature": 0},
    {"temperature": 0.9, "top_p": 0.9, "seed": 11},
    {"temperature": 1.3, "top_p": 0.95, "seed": 12},
)
REFUSED: tuple[tuple[int, dict[str, Any]], ...] = (
    (400, {"temperature": 3}),
    (400, {"tools": [{"type": "function"}]}),
    (404, {"model": "another"}),
    (413, {"user": "x" * 2_000_000}),
)
MAX_TOKENS = 96
HEALTH_PERIOD = 0.05
PATIENCE = 600.0


@dataclass
class Tally:
    """What happened.

    Attributes:
        counts: of every kind of outcome.
        problems: a line for each lost, different or wrongly refused answer.
        health: seconds that each ``/health`` took.
        tokens: pieces of text received.
    """

    counts: Counter[str] = field(default_factory=Counter)
    problems: list[str] = field(default_factory=list)
    health: list[float] = field(default_factory=list)
    tokens: int = 0

    def note_problem(self, kind: str, detail: str) -> None:
        """Note a fault of the server."""
        self.counts[kind] += 1
        self.problems.append(f"{kind}: {detail}")


def main() -> int:
    """Run the soak; 1 if the server did anything wrong."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--requests", type=int, default=500)
    parser.add_argument("--clients", type=int, default=32)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("server", nargs="*", help="more options of glm run api, after --")
    arguments = parser.parse_args()
    with start_server(arguments.server) as url:
        report = asyncio.run(run_soak(url, arguments.requests, arguments.clients, arguments.seed))
    for name, value in report.items():
        print(f"{name:32} {value}")
    print(json.dumps(report))
    return int(
        bool(report["lost"] or report["different"] or report["wrong_status"] or report["leaked_slots"])
    )


@contextlib.contextmanager
def start_server(options: list[str]) -> Iterator[str]:
    """``glm run api`` on a free port; its URL."""
    process = subprocess.Popen(
        [sys.executable, "-m", "glm_core", "run", "api", "--port", "0", *options],
        stderr=subprocess.PIPE,
        text=True,
        env={name: value for name, value in os.environ.items() if name != "GLM_API_KEY"},
    )
    assert process.stderr is not None
    try:
        for line in process.stderr:
            match = re.search(r"serving .* on (http://\S+)", line)
            if match:
                break
        else:
            raise SystemExit("the server did not start")
        yield match[1]
        process.terminate()
        process.communicate(timeout=60)
    finally:
        process.kill()


async def run_soak(url: str, requests: int, clients: int, seed: int) -> dict[str, Any]:
    """Take the reference answers, then the load, then look at what is left."""
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=clients)
    async with httpx.AsyncClient(base_url=url, timeout=PATIENCE, limits=limits, trust_env=False) as client:
        cases = [(question, sampling) for question in QUESTIONS for sampling in SAMPLINGS]
        expected = [await read_answer(client, *case) for case in cases]
        before = await read_metrics(client)
        tally = Tally()
        chance = random.Random(seed)  # noqa: S311 - repeatable, not secret
        plan = [
            (make_plan(number), chance.randrange(len(cases)), chance.random()) for number in range(requests)
        ]
        places = asyncio.Semaphore(clients)
        stop = asyncio.Event()
        watching = asyncio.create_task(watch_health(url, tally, stop))
        began = time.perf_counter()

        async def run_case(kind: str, case: int, fraction: float) -> None:
            async with places:
                await run_request(client, tally, kind, cases[case], expected[case], fraction)

        await asyncio.gather(*(run_case(*step) for step in plan))
        seconds = time.perf_counter() - began
        stop.set()
        await watching
        after = await wait_for_settled_metrics(client)
    for line in tally.problems[:20]:
        print(line, file=sys.stderr)
    return make_report(tally, before, after, seconds)


def make_plan(number: int) -> str:
    """What the client of a request does: of twelve, four leave, two are slow, one is refused."""
    return (
        "read",
        "leave",
        "slow",
        "leave",
        "read",
        "refused",
        "leave",
        "read",
        "slow",
        "leave",
        "read",
        "read",
    )[number % 12]


def make_body(question: str, sampling: dict[str, Any], **more: Any) -> dict[str, Any]:
    """A chat request."""
    messages = [{"role": "user", "content": question}]
    return {"model": "default", "messages": messages, "max_tokens": MAX_TOKENS, **sampling, **more}


async def read_answer(client: httpx.AsyncClient, question: str, sampling: dict[str, Any]) -> str:
    """The answer that the server gives with nothing else to do."""
    answer = await client.post("/v1/chat/completions", json=make_body(question, sampling))
    answer.raise_for_status()
    text: str = answer.json()["choices"][0]["message"]["content"]
    return text


async def run_request(
    client: httpx.AsyncClient,
    tally: Tally,
    kind: str,
    case: tuple[str, dict[str, Any]],
    expected: str,
    fraction: float,
) -> None:
    """One request, from its plan to its outcome."""
    try:
        if kind == "refused":
            await expect_refusal(client, tally, case, fraction)
            return
        text, finished = "", False
        enough = int(len(expected) * fraction) if kind == "leave" else None
        async for piece in read_pieces(client, tally, make_body(*case, stream=True)):
            if piece is None:
                finished = True
                break
            text += piece
            tally.tokens += 1
            if enough is not None and len(text) >= enough:
                break
            if kind == "slow":
                await asyncio.sleep(0.05)
        if (finished and text != expected) or not expected.startswith(text):
            tally.note_problem("different", f"{case}: got {text!r}, alone it was {expected!r}")
        elif enough is None and not finished:
            tally.note_problem("lost", f"{case}: the stream ended after {len(text)} characters")
        else:
            tally.counts[kind] += 1
    except (httpx.HTTPError, ValueError, KeyError) as error:
        tally.note_problem("lost", f"{case}: {type(error).__name__}: {error}")


async def read_pieces(client: httpx.AsyncClient, tally: Tally, body: Any) -> AsyncIterator[str | None]:
    """The texts of a stream, then ``None`` if it ended properly; a full queue is asked again."""
    while True:
        async with client.stream("POST", "/v1/chat/completions", json=body) as response:
            if response.status_code == 429:
                tally.counts["asked again after 429"] += 1
                wait = float(response.headers["retry-after"])
            else:
                response.raise_for_status()
                async for line in response.aiter_lines():
                    if line == "data: [DONE]":
                        yield None
                    elif line.startswith("data: "):
                        yield json.loads(line[6:])["choices"][0]["delta"].get("content", "")
                return
        await asyncio.sleep(wait)


async def expect_refusal(
    client: httpx.AsyncClient, tally: Tally, case: tuple[str, dict[str, Any]], fraction: float
) -> None:
    """Ask for something that must be refused."""
    status, fields = REFUSED[int(fraction * len(REFUSED))]
    answer = await client.post("/v1/chat/completions", json={**make_body(*case), **fields})
    if answer.status_code == status and "error" in answer.json():
        tally.counts["refused"] += 1
    else:
        tally.note_problem("wrong_status", f"expected {status}, got {answer.status_code}")


async def watch_health(url: str, tally: Tally, stop: asyncio.Event) -> None:
    """Ask /health again and again on a connection of its own."""
    async with httpx.AsyncClient(base_url=url, timeout=PATIENCE, trust_env=False) as client:
        while not stop.is_set():
            began = time.perf_counter()
            answer = await client.get("/health")
            tally.health.append(time.perf_counter() - began)
            if answer.status_code != 200:
                tally.note_problem("wrong_status", f"/health {answer.status_code}")
            await asyncio.sleep(HEALTH_PERIOD)


async def read_metrics(client: httpx.AsyncClient) -> dict[str, float]:
    """Every unlabelled sample of /metrics."""
    text = (await client.get("/metrics")).text
    samples = (line.split(" ") for line in text.splitlines() if not line.startswith("#") and "{" not in line)
    return {name: float(value) for name, value in samples}


async def wait_for_settled_metrics(client: httpx.AsyncClient) -> dict[str, float]:
    """The metrics once nothing runs any more, or after ten seconds."""
    for _ in range(100):
        after = await read_metrics(client)
        if not count_leaks(after):
            break
        await asyncio.sleep(0.1)
    return after


def count_leaks(samples: dict[str, float]) -> int:
    """What is still in use: answers, slots, places in the queue."""
    names = ("glm_answers", "glm_slots_active", "glm_queue_waiting")
    return int(sum(samples.get(name, 0.0) for name in names))


def make_report(
    tally: Tally, before: dict[str, float], after: dict[str, float], seconds: float
) -> dict[str, Any]:
    """Everything worth telling."""
    health = sorted(tally.health)
    rss = "process_resident_memory_bytes"
    return {
        "requests": sum(tally.counts.values()) - tally.counts["asked again after 429"],
        **{kind: tally.counts[kind] for kind in ("read", "slow", "leave", "refused")},
        **{kind: tally.counts[kind] for kind in ("lost", "different", "wrong_status")},
        "asked_again_after_429": tally.counts["asked again after 429"],
        "disconnects_seen_by_server": int(after["glm_disconnects_total"] - before["glm_disconnects_total"]),
        "leaked_slots": count_leaks(after),
        "kv_tokens_after": int(after.get("glm_kv_tokens", 0.0)),
        "rss_before_mb": round(before[rss] / 2**20, 1),
        "rss_after_mb": round(after[rss] / 2**20, 1),
        "health_requests": len(health),
        "health_p50_ms": round(1000 * health[len(health) // 2], 1),
        "health_p99_ms": round(1000 * health[min(len(health) - 1, int(0.99 * len(health)))], 1),
        "health_max_ms": round(1000 * health[-1], 1),
        "seconds": round(seconds, 1),
        "pieces_per_second": round(tally.tokens / seconds, 1),
    }


if __name__ == "__main__":
    sys.exit(main())
