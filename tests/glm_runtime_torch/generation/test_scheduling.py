"""What callers of the engine see of one another: order, queue, failures, cancellation, long prompts."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from fake_plugins import run_python
from glm_runtime_torch.generation import scheduler as scheduler_module, worker as worker_module
from glm_runtime_torch.generation.engine import Engine
from key_words import containing
from patience import PATIENCE_SECONDS, wait_until
from scripted_engine import CountingNetwork, Gate, count_from, counting_engine

from glm_core import BusyError, ClosedError, Delta, OutOfMemoryError, RequestError, Sampling


def tokens(stream: Iterator[Delta]) -> list[int]:
    return [token for delta in stream for token in delta.token_ids]


@pytest.fixture
def network() -> CountingNetwork:
    return CountingNetwork()


@pytest.fixture
def engine(network: CountingNetwork) -> Iterator[Engine]:
    opened = counting_engine(network)
    yield opened
    opened.close()


def test_requests_join_a_running_batch(engine: Engine, network: CountingNetwork) -> None:
    """A request that comes while another is answered decodes beside it, in the same step."""
    gate = Gate()
    network.before_decode = gate
    first = engine.stream(count_from(10, length=6))
    assert gate.reached.wait(PATIENCE_SECONDS)
    second = engine.stream(count_from(50, length=3))
    gate.open()
    assert tokens(first) == [11, 12, 13, 14, 15, 16]
    assert tokens(second) == [51, 52, 53]
    steps = [rows for kind, rows in network.log if kind == "decode"]
    assert any(len(rows) == 2 for rows in steps)
    assert len(steps) < 5 + 2  # fewer than one after the other would take


def test_error_in_one_row_spares_the_others(engine: Engine, network: CountingNetwork) -> None:
    """A step that fails because of one sequence ends that one; the other gets all its tokens."""

    def fail_at_12(rows: list[int]) -> None:
        if 12 in rows:
            raise RuntimeError("token 12 is cursed")

    network.before_decode = fail_at_12
    cursed, other = engine.stream(count_from(10, length=6)), engine.stream(count_from(50, length=6))
    with pytest.raises(RuntimeError, match="cursed"):
        tokens(cursed)
    assert tokens(other) == [51, 52, 53, 54, 55, 56]
    assert engine.slots.num_free == 2
    assert tokens(engine.stream(count_from(20))) == [21, 22, 23]


def test_error_in_prefill_spares_the_others(engine: Engine, network: CountingNetwork) -> None:
    """A prompt that cannot be taken in ends its own request only."""

    def fail_for_13(prompt: list[int]) -> None:
        if prompt == [13]:
            raise ValueError("unlucky prompt")

    network.before_prefill = fail_for_13
    streams = [engine.stream(count_from(number)) for number in (10, 13, 20)]
    assert tokens(streams[0]) == [11, 12, 13]
    with pytest.raises(ValueError, match="unlucky prompt"):
        tokens(streams[1])
    assert tokens(streams[2]) == [21, 22, 23]


def test_running_out_of_memory_ends_one_request_and_the_engine_lives_on(
    engine: Engine, network: CountingNetwork
) -> None:
    """A batch too large for the memory is decoded row by row; a row too large gets a clear error."""

    def out_of_memory(rows: list[int]) -> None:
        if len(rows) > 1 or 12 in rows:
            raise torch.OutOfMemoryError("no more")

    network.before_decode = out_of_memory
    large, small = engine.stream(count_from(10, length=6)), engine.stream(count_from(50, length=4))
    with pytest.raises(OutOfMemoryError, match=containing("cpu", "memory", "3 tokens", "max_length")):
        tokens(large)
    assert tokens(small) == [51, 52, 53, 54]
    assert tokens(engine.stream(count_from(20))) == [21, 22, 23]


def test_error_in_sampling_ends_that_request(
    engine: Engine, network: CountingNetwork, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever fails between logits and text ends the request that it belongs to."""
    good, bad = engine.prepare(count_from(10, length=4)), engine.prepare(count_from(50, length=4))
    monkeypatch.setattr(bad.sampler, "choose", lambda *_: 1 // 0)
    prepared = iter([bad, good])
    monkeypatch.setattr(engine, "prepare", lambda *_: next(prepared))
    streams = [engine.stream(count_from(50)), engine.stream(count_from(10))]
    with pytest.raises(ZeroDivisionError):
        tokens(streams[0])
    assert tokens(streams[1]) == [11, 12, 13, 14]


def test_full_queue_is_refused_and_frees_again(network: CountingNetwork) -> None:
    """Slots and queue taken, one more request is refused at once; later the same one is answered."""
    gate = Gate()
    network.before_prefill = gate
    engine = counting_engine(network, slots=1, queue_capacity=2)
    streams = [engine.stream(count_from(number)) for number in (10, 20, 30)]
    with pytest.raises(BusyError, match=containing("3 requests", "try again")):
        engine.stream(count_from(40))
    assert gate.reached.wait(PATIENCE_SECONDS)
    load = engine.load
    assert (load.slots, load.active, load.waiting, load.queue_capacity) == (1, 1, 2, 2)
    assert (load.kv_tokens, load.kv_capacity) == (1, 64)
    gate.open()
    assert [tokens(stream) for stream in streams] == [[11, 12, 13], [21, 22, 23], [31, 32, 33]]
    assert tokens(engine.stream(count_from(40))) == [41, 42, 43]
    engine.close()


def test_waiting_requests_learn_their_place_and_are_served_in_order(network: CountingNetwork) -> None:
    """First come, first served; who waits is told how many are before, in empty deltas."""
    gate = Gate()
    network.before_prefill = gate
    engine = counting_engine(network, slots=1)
    first = engine.stream(count_from(10))
    assert gate.reached.wait(PATIENCE_SECONDS)
    second, third = engine.stream(count_from(20)), engine.stream(count_from(30))
    waiting = next(second)
    assert (waiting.queue_position, waiting.text) == (1, "")
    gate.open()
    assert tokens(first) == [11, 12, 13]
    deltas = list(third)
    assert [delta.queue_position for delta in deltas] == [2, 1, 0, 0, 0, 0]
    assert [delta.token_ids for delta in deltas] == [(), (), (), (31,), (32,), (33,)]
    assert tokens(second) == [21, 22, 23]
    prompts = [rows for kind, rows in network.log if kind == "prefill"]
    assert prompts == [(10,), (20,), (30,)]
    usage = deltas[-1].usage
    assert usage is not None
    assert 0 < usage.queue_seconds <= usage.time_to_first_token
    engine.close()


def test_cancelled_waiting_request_gives_its_place_up(network: CountingNetwork) -> None:
    """A request cancelled in the queue never runs, and frees its place for another at once."""
    gate = Gate()
    network.before_prefill = gate
    engine = counting_engine(network, slots=1, queue_capacity=1)
    running = engine.stream(count_from(10))
    assert gate.reached.wait(PATIENCE_SECONDS)
    waiting = engine.stream(count_from(20))
    waiting.close()
    instead = engine.stream(count_from(30))
    gate.open()
    assert tokens(waiting) == []
    assert tokens(running) == [11, 12, 13]
    assert tokens(instead) == [31, 32, 33]
    assert ("prefill", (20,)) not in network.log
    engine.close()


def test_prompt_is_cancelled_between_two_steps() -> None:
    """Closing a stream while its long prompt is taken in stops the work and frees the slot."""
    network, gate = CountingNetwork(prefill_steps=1000), Gate()
    network.before_prefill = gate
    engine = counting_engine(network)
    stream = engine.stream(count_from(10))
    assert gate.reached.wait(PATIENCE_SECONDS)
    stream.close()
    gate.open()
    wait_until(lambda: engine.slots.num_free == 2)
    assert len(network.log) < 10
    engine.close()


def test_running_answers_go_on_while_a_long_prompt_is_taken_in(monkeypatch: pytest.MonkeyPatch) -> None:
    """Between two decode steps prefill gets its share of time and no more, so nobody stalls."""
    now = iter(range(1_000_000))
    monkeypatch.setattr(scheduler_module.time, "perf_counter", lambda: float(next(now)))  # type: ignore[attr-defined]  # a look = a second
    network, gate = CountingNetwork(prefill_steps=1), Gate()
    network.before_decode = gate
    engine = counting_engine(network)
    running = engine.stream(count_from(10, length=40))
    assert gate.reached.wait(PATIENCE_SECONDS)
    network.prefill_steps = 60
    long = engine.stream(count_from(50))
    gate.open()
    assert tokens(running) == list(range(11, 51))
    assert tokens(long) == [51, 52, 53]
    log = network.log[network.log.index(("prefill", (50,))) :]
    stalls = "".join("p" if kind == "prefill" else " " for kind, _ in log).split()
    assert len(stalls) >= 10  # the prompt was taken in between many decode steps
    assert max(map(len, stalls)) <= 6
    engine.close()


def test_too_long_request_is_refused_by_arithmetic(engine: Engine, network: CountingNetwork) -> None:
    """What cannot fit its slot is refused before anything runs."""
    with pytest.raises(RequestError, match=containing("1 tokens", "max_length 1", "at most 0")):
        engine.stream(count_from(10).__class__(count_from(10).messages, Sampling(max_length=1)))
    assert network.log == []


def test_worker_ends_when_idle_and_the_next_request_starts_another(
    network: CountingNetwork, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An idle engine keeps no thread alive, so a forgotten model can be collected."""
    monkeypatch.setattr(worker_module, "IDLE_SECONDS", 0.01)
    engine = counting_engine(network)
    assert tokens(engine.stream(count_from(10))) == [11, 12, 13]
    wait_until(lambda: not engine._worker.is_running)
    assert tokens(engine.stream(count_from(20))) == [21, 22, 23]
    engine.close()
    with pytest.raises(ClosedError):
        engine.stream(count_from(30))


def test_program_may_end_in_the_middle_of_an_answer() -> None:
    """A program that closes nothing ends in peace, also while the engine's thread computes."""
    program = (
        "import glm_core; model = glm_core.load('demo', device='cpu'); "
        "stream = model.chat_stream('hi', ignore_eos=True, max_new_tokens=3000); next(stream)"
    )
    for _ in range(3):
        done = run_python("-c", program)
        assert (done.returncode, done.stderr) == (0, "")


def test_bug_in_the_worker_leaves_nobody_waiting(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    """Should the scheduler itself fail, every caller gets the error, and the next request is answered."""
    broken = iter([True])
    original = engine._scheduler.run_once

    def step(*arguments: Any) -> None:
        if next(broken, False):
            raise AssertionError("a bug of ours")
        original(*arguments)

    monkeypatch.setattr(engine._scheduler, "run_once", step)
    monkeypatch.setattr("threading.excepthook", lambda _: None)
    with pytest.raises(AssertionError, match="a bug of ours"):
        tokens(engine.stream(count_from(10)))
    assert engine.slots.num_free == 2
    assert tokens(engine.stream(count_from(20))) == [21, 22, 23]
