"""What `soak_api` asks: requests whose answers are compared, and such as must be refused."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

KEY = "key-of-the-soak"
GUESTS = 3
"""Adapters that come and go."""
MAX_TOKENS = 48
QUESTIONS = ("How do I quantise a model?", "你好", "What is P-Tuning?", "怎么用多张显卡？")
SAMPLINGS: tuple[dict[str, Any], ...] = (
    {"temperature": 0},
    {"temperature": 0.9, "top_p": 0.9, "seed": 11},
    {"temperature": 1.3, "top_p": 0.95, "seed": 12},
)
# Longer than a piece of the prefix cache, so that it is reused.
SYSTEM = "You are a careful assistant. " * 40
TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "get_weather",
            "description": "the weather of a city",
            "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
        },
    }
]


@dataclass
class Case:
    """A request and what it was answered with alone.

    Attributes:
        name: for messages.
        body: of the request.
        expected: the answer in the form of `read_answer`.
        path: of the route.
    """

    name: str
    body: dict[str, Any]
    expected: Any = None
    path: str = "/v1/chat/completions"

    @property
    def num_pieces(self) -> int:
        """About how many chunks a stream of it has."""
        return MAX_TOKENS * int(self.body.get("n", 1))


def build_cases() -> list[Case]:
    """Return one case for each question and way of choosing tokens, of every sort."""
    cases = []
    for question in QUESTIONS:
        for number, sampling in enumerate(SAMPLINGS):
            name = f"{question} / {number}"
            cases += [
                Case(f"plain: {name}", _build_chat(question, sampling)),
                Case(f"system: {name}", _build_chat(question, sampling, system=SYSTEM)),
                Case(f"adapter: {name}", _build_chat(question, {**sampling, "model": "steady"})),
                Case(f"tools: {name}", _build_chat(question, {**sampling, "tools": TOOLS})),
                Case(
                    f"a call: {name}",
                    _build_chat(question, {**sampling, "tools": TOOLS, "tool_choice": "required"}),
                ),
                Case(f"n: {name}", _build_chat(question, {**sampling, "n": 3}, system=SYSTEM)),
                Case(
                    f"completion: {name}",
                    {"model": "default", "prompt": question, "max_tokens": MAX_TOKENS, **sampling},
                    path="/v1/completions",
                ),
            ]
    return cases


def build_guest_case(number: int) -> Case:
    """Return a question to an adapter that comes and goes."""
    return Case(f"guest {number}", _build_chat(QUESTIONS[0], {**SAMPLINGS[1], "model": f"guest{number}"}))


def read_answer(answer: dict[str, Any]) -> Any:
    """Return what an answer says: text, calls and finish reason of each choice, without ids and times."""
    choices = []
    for choice in answer["choices"]:
        message = choice.get("message") or {"content": choice["text"]}
        calls = [
            (call["function"]["name"], call["function"]["arguments"])
            for call in message.get("tool_calls") or ()
        ]
        choices.append((message["content"] or "", calls, choice["finish_reason"]))
    return choices


def merge_chunks(chunks: list[dict[str, Any]]) -> Any:
    """Return what a stream says, in the form of `read_answer`."""
    merged: dict[int, dict[str, Any]] = {}
    for chunk in chunks:
        if "error" in chunk:
            raise ValueError(f"the stream ended with {chunk['error']}")
        for choice in chunk["choices"]:
            own = merged.setdefault(choice["index"], {"text": "", "calls": {}, "reason": None})
            delta = choice.get("delta", choice)
            own["text"] += delta.get("content") or delta.get("text") or ""
            own["reason"] = choice["finish_reason"] or own["reason"]
            for call in delta.get("tool_calls") or ():
                parts = own["calls"].setdefault(call["index"], ["", ""])
                parts[0] += call["function"].get("name") or ""
                parts[1] += call["function"].get("arguments") or ""
    return [
        (own["text"], [tuple(parts) for _, parts in sorted(own["calls"].items())], own["reason"])
        for _, own in sorted(merged.items())
    ]


def _build_chat(question: str, fields: dict[str, Any], system: str = "") -> dict[str, Any]:
    messages = [{"role": "system", "content": system}] if system else []
    messages.append({"role": "user", "content": question})
    return {"model": "default", "messages": messages, "max_tokens": MAX_TOKENS, **fields}


def _fill(before: str, element: str, after: str) -> bytes:
    """Return a body just below the limit of a megabyte, full of copies of an element."""
    number = (2**20 - len(before) - len(after)) // (len(element) + 1)
    return f"{before}{','.join([element] * number)}{after}".encode()


def _encode(**fields: Any) -> bytes:
    return json.dumps({**_build_chat("hello", {}), **fields}).encode()


CHAT = "/v1/chat/completions"
REFUSED: tuple[tuple[str, bytes, int], ...] = (
    (CHAT, _encode(temperature=3), 400),
    (CHAT, _encode(tools=[{"type": "function"}]), 400),
    (CHAT, _encode(model="another"), 404),
    (CHAT, _encode(model="guest99"), 404),
    (CHAT, _encode(user="x" * 2_000_000), 413),
    ("/v1/adapters", json.dumps({"name": "steady", "path": "guest0"}).encode(), 409),
)
_PART = '{"model":"default","messages":[{"role":"user","content":['
HOSTILE: tuple[tuple[str, bytes, int], ...] = (
    (CHAT, _fill(_PART, "0", "]}]}"), 400),
    (CHAT, _fill(_PART, "{}", "]}]}"), 400),
    (CHAT, _fill('{"model":"default","messages":[', "{}", "]}"), 400),
    (CHAT, _fill('{"model":"default","tools":[', "{}", "]}"), 400),
    (CHAT, b"[" * 2**19 + b"]" * 2**19, 400),
    (CHAT, b'{"model":' + b"9" * 1_000_000 + b"}", 400),
    (CHAT, b'"' * 2**20, 400),
    ("/", _fill('{"prompt":"x","history":[', "[0,0]", "]}"), 400),
)
