"""Whatever a body holds: it costs the event loop next to nothing, and others are answered meanwhile."""

from __future__ import annotations

import dataclasses
import json
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
from api_support import ScriptedRuntime, Served, chat_body, serving
from hypothesis import HealthCheck, given, settings, strategies

from glm_core import ModelInfo

MAX_BODY = 2**20
JSON_TYPE = {"content-type": "application/json"}
GOOD = chat_body("say hello")
CALL = '{"id":"c","type":"function","function":{"name":"f","arguments":"{}"}}'


def fill(before: str, element: str, after: str, separator: str = ",") -> bytes:
    """Fill a body up to the limit with copies of an element."""
    number = (MAX_BODY - len(before) - len(after)) // len((element + separator).encode())
    return f"{before}{separator.join([element] * number)}{after}".encode()


def wrap(field: str, element: str) -> bytes:
    """Fill a list that is one field of a request."""
    rest = {name: value for name, value in GOOD.items() if name != field}
    return fill(f'{json.dumps(rest)[:-1]}, "{field}": [', element, "]}")


QUESTION = '{"model":"default","messages":[{"role":"user","content":"say '
HOSTILE = {
    "numbers as content": fill('{"model":"default","messages":[{"role":"user","content":[', "0", "]}]}"),
    "objects as content": fill('{"model":"default","messages":[{"role":"user","content":[', "{}", "]}]}"),
    "empty parts": fill(
        '{"model":"default","messages":[{"role":"user","content":[', '{"type":"text","text":""}', "]}]}"
    ),
    "empty messages": wrap("messages", "{}"),
    "good messages": wrap("messages", '{"role":"user","content":"x"}'),
    "empty calls": wrap("messages", f'{{"role":"assistant","tool_calls":[{",".join(["{}"] * 128)}]}}'),
    "good calls": wrap(
        "messages", f'{{"role":"assistant","content":null,"tool_calls":[{",".join([CALL] * 100)}]}}'
    ),
    "empty tools": wrap("tools", "{}"),
    "empty stops": wrap("stop", '""'),
    "unknown keys": b'{"model":"default",' + b",".join(b'"%d":0' % number for number in range(90_000)) + b"}",
    "empty lists": b"[" + b"[]," * 340_000 + b"[]]",
    "deep lists": b"[" * (MAX_BODY // 2) + b"]" * (MAX_BODY // 2),
    "strings of quotes": fill(
        '{"model":"default","messages":[{"role":"user","content":"say ', '\\"', '"}]}', ""
    ),
    "commas in a text": fill(
        '{"model":"default","messages":[{"role":"user","content":"say ', ",", '"}]}', ""
    ),
    "metadata": b'{"metadata":{' + b",".join(b'"%d":0' % number for number in range(90_000)) + b"}}",
    "escapes": fill(QUESTION, "\\u0041", '"}]}', ""),
    "open strings": b'"' * MAX_BODY,
    "backslashes": b"\\" * MAX_BODY,
    "history": fill('{"prompt":"say hi","history":[', "[0,0]", "]}"),
    "digits": b'{"prompt":"x","max_length":' + b"9" * 1_000_000 + b"}",
}


class WithTools(ScriptedRuntime):
    """Takes tools, so that calls and tools are read and not only refused."""

    @property
    def info(self) -> ModelInfo:
        """Facts about the model."""
        return dataclasses.replace(super().info, features=frozenset({"tools"}))


@pytest.fixture(scope="module")
def served() -> Iterator[Served]:
    """A server on a model with tools that answers at once."""
    runtime = WithTools()
    with serving(runtime.model, max_body_bytes=MAX_BODY) as served:
        yield served


def post_and_count(served: Served, path: str, body: bytes) -> tuple[int, float]:
    """The status of a request, and the processor seconds that the event loop's thread took for it."""
    clocks: list[float] = []
    loop = served.server.servers[0].get_loop()
    seen = threading.Event()

    def read_clock() -> None:
        clocks.append(time.thread_time())
        seen.set()

    def read_clock_there() -> None:
        seen.clear()
        loop.call_soon_threadsafe(read_clock)
        assert seen.wait(60)

    read_clock_there()
    answer = served.http.post(path, content=body, headers=JSON_TYPE)
    read_clock_there()
    return answer.status_code, clocks[1] - clocks[0]


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/completions", "/"])
@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_bodies_cost_the_event_loop_nothing(served: Served, path: str, name: str) -> None:
    """A megabyte of anything is answered or refused, and parsed and checked beside the loop."""
    assert len(HOSTILE[name]) <= MAX_BODY
    status, seconds = post_and_count(served, path, HOSTILE[name])
    assert status in (200, 400)
    # It takes a few milliseconds here; before, up to eight seconds. Room for a machine ten times as slow.
    assert seconds < 0.5, f"{name}: {seconds:.3f} s of the event loop"


JSON_VALUES = strategies.recursive(
    strategies.none() | strategies.booleans() | strategies.integers() | strategies.text(max_size=5),
    lambda inner: (
        strategies.lists(inner, max_size=4)
        | strategies.dictionaries(strategies.text(max_size=5), inner, max_size=4)
    ),
    max_leaves=8,
)
PLACES = (
    "messages",
    "tools",
    "stop",
    "metadata",
    "tool_choice",
    "n",
    "stream_options",
    "logit_bias",
    "other",
)


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    place=strategies.sampled_from(PLACES),
    element=JSON_VALUES
    | strategies.sampled_from([{"role": "user", "content": []}, {"role": "user", "content": "x"}]),
    in_message=strategies.booleans(),
)
def test_any_value_repeated_costs_the_event_loop_nothing(
    served: Served, place: str, element: Any, in_message: bool
) -> None:
    """The property behind the list above: any JSON, as often as it fits, in any field."""
    text = json.dumps(element)
    if in_message:
        body = fill(f'{{"model":"default","messages":[{{"role":"user","{place}":[', text, "]}]}")
    else:
        body = wrap(place, text)
    status, seconds = post_and_count(served, "/v1/chat/completions", body)
    assert status in (200, 400)
    assert seconds < 0.5, f"{place}: {text}"


def test_text_full_of_punctuation_is_no_list(served: Served) -> None:
    """What stands in a text does not count as values: a long file of code or of numbers is answered."""
    text = "say " + "[1, 2, {3: 4}], \\" * 20_000 + '"'
    answer = served.http.post("/v1/chat/completions", json=chat_body(text), headers=JSON_TYPE)
    assert answer.status_code == 200


def test_refusal_of_many_faults_names_the_first(served: Served) -> None:
    """A hundred thousand wrong parts are told by one."""
    answer = served.http.post(
        "/v1/chat/completions",
        json={"model": "default", "messages": [{"role": "user", "content": [0] * 50_000}]},
    )
    assert answer.status_code == 400
    assert answer.json()["error"]["param"].startswith("messages[0].content[0]")
    assert len(answer.text) < 1000


def test_error_beside_the_body_is_no_fault_of_the_body(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What fails in the server while it reads, such as a file that cannot be opened, is a 500."""

    def fail(body: bytes) -> Any:
        raise OSError(24, "Too many open files")

    monkeypatch.setattr("glm_frontend_api.bodies.parse_json", fail)
    answer = served.chat("say hello")
    assert answer.status_code == 500
    assert answer.json()["error"]["code"] == "internal_error"
    monkeypatch.undo()
    assert served.chat("say hello").status_code == 200
