"""Tests of what is measured, and of what is refused before anything is."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any

import pytest
from fake_plugins import FakeModel, plugin
from glm_jobs.bench import Cell, Plan, Spread, benchmark, measure
from glm_jobs.bench.streams import Timeline
from glm_testing import make_host
from key_words import containing

from glm_core import ChatModel, ChatRequest, ConfigError, ModelLoad, Sampling
from glm_core.records import Delta, Usage


class Machine:
    """A runtime with a clock of its own: a second for 100 prompt tokens, and for 4 tokens of the answer.

    Args:
        ends_after: tokens after which it ends an answer, whatever it is asked.
    """

    def __init__(self, ends_after: int | None = None) -> None:
        self.now = 0.0
        self.ends_after = ends_after
        self.asked: list[ChatRequest] = []

    def clock(self) -> float:
        """Seconds."""
        return self.now

    def chat_stream(self, request: ChatRequest) -> Iterator[Delta]:
        """Answer with numbers."""
        self.asked.append(request)
        wanted = request.sampling.max_new_tokens or 1
        tokens = min(wanted, self.ends_after or wanted)
        prompt = len(request.messages[0].content.split())

        def deltas() -> Iterator[Delta]:
            started = self.now
            self.now += prompt / 100
            first = self.now - started
            for token in range(tokens):
                self.now += 0.25 if token else 0
                yield Delta(f"{token} ", (token,))
            usage = Usage(
                prompt, tokens, time_to_first_token=first, decode_seconds=self.now - started - first
            )
            yield Delta("", (), "length" if tokens == wanted else "stop", usage)

        return deltas()

    def model(self, load: ModelLoad | None = None) -> ChatModel:
        """A model of this runtime with room for 1,000 tokens."""
        fake: Any = FakeModel()
        fake.info = dataclasses.replace(fake.info, context_length=1000)
        fake.load = load
        return ChatModel(
            make_host(r=plugin(chat_stream=lambda request: self.chat_stream(request))), "r", fake
        )


def test_prefill_and_decode_are_measured_apart() -> None:
    """Both speeds of a machine that is known, and the lengths that its questions had."""
    machine = Machine()
    [cell] = measure(machine.model(), Plan((200,), 9, (1,), 2), clock=machine.clock)
    assert (cell.prompt_tokens, cell.batch, cell.answer_tokens) == (200, 1, (9, 9))
    assert cell.prefill == Spread(100, 100, 100, (100, 100))
    assert cell.decode == Spread(4, 4, 4, (4, 4))
    assert cell.first_token is not None
    assert cell.first_token.median == 2
    assert cell.total is not None
    assert cell.total.median == pytest.approx(9 / 4)


def test_every_run_asks_greedily_past_the_end_and_nothing_twice() -> None:
    """Sampling costs nothing, answers have the length asked for, and no prefix can be reused."""
    machine = Machine()
    measure(machine.model(), Plan((20,), 5, (1,), repeat=3, warm_up=2), clock=machine.clock)
    finding, runs = machine.asked[:-5], machine.asked[-5:]
    assert [request.sampling.max_new_tokens for request in runs] == [5, 5, 5, 5, 5]
    assert {request.sampling.max_new_tokens for request in finding} == {1}
    for request in machine.asked:
        sampling = Sampling(request.sampling.max_new_tokens, do_sample=False, ignore_eos=True)
        assert request.sampling == sampling
    assert len({request.messages for request in runs}) == 5


def test_order_is_told_and_kept() -> None:
    """Batches grow and questions grow within them, each named once; doubles are measured once."""
    machine = Machine()
    lines: list[str] = []
    plan = Plan((30, 10, 30), 2, (2, 1), repeat=1, warm_up=1)
    cells = measure(machine.model(), plan, lines.append)
    assert [(cell.batch, cell.prompt_tokens) for cell in cells] == [(1, 10), (1, 30), (2, 10), (2, 30)]
    assert [cell.prefill is None for cell in cells] == [False, False, True, True]
    assert lines == [
        "finding a question of 10 tokens",
        "finding a question of 30 tokens",
        "warm-up 1 of 1: batch 1",
        "run 1 of 1: 10 prompt tokens, batch 1",
        "run 1 of 1: 30 prompt tokens, batch 1",
        "warm-up 1 of 1: batch 2",
        "finding the length of answers: 10 prompt tokens, batch 2",
        "run 1 of 1: 10 prompt tokens, batch 2",
        "finding the length of answers: 30 prompt tokens, batch 2",
        "run 1 of 1: 30 prompt tokens, batch 2",
    ]


def batches_with_lead(monkeypatch: pytest.MonkeyPatch, ahead: int) -> list[int]:
    """Two requests where the second begins when the first has ``ahead`` tokens; the lengths asked for."""
    lengths: list[int] = []

    def run_together(model: object, requests: Sequence[ChatRequest], *, clock: object) -> list[Timeline]:
        length = requests[0].sampling.max_new_tokens or 1
        prompt = len(requests[0].messages[0].content.split())
        if len(requests) > 1:
            lengths.append(length)
        return [
            Timeline(
                0,
                tuple((float(begin + token), float(token)) for token in range(1, length + 1)),
                Usage(prompt, length),
                "length",
            )
            for begin in (0, ahead - 1)[: len(requests)]
        ]

    monkeypatch.setattr(benchmark, "run_together", run_together)
    return lengths


@pytest.mark.parametrize(
    ("ahead", "lengths"),
    [
        (1, [16, 16, 16]),  # they begin together: the wanted length does
        (9, [16, 24, 24, 24]),  # 8 tokens are written before both decode
        (30, [16, 48, 48, 48]),  # never together at first, then for 19
        (500, [16, 48, 112, 112]),  # one after another: tried twice
    ],
)
def test_answers_are_long_enough_to_decode_together(
    ahead: int, lengths: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the first request writes while the second's question is read comes on top of the wanted length."""
    asked = batches_with_lead(monkeypatch, ahead)
    [cell] = measure(Machine().model(), Plan((20,), 16, (2,), repeat=2, warm_up=0))
    assert asked == lengths
    assert (cell.decode is None) == (ahead == 500)


def test_answers_never_grow_beyond_the_context(monkeypatch: pytest.MonkeyPatch) -> None:
    """A question of 960 tokens leaves room for 40 of 1,000: 16 would have to become 48."""
    asked = batches_with_lead(monkeypatch, 30)
    measure(Machine().model(), Plan((960,), 16, (2,), repeat=1, warm_up=0))
    assert asked == [16, 16]


def test_answer_that_ends_early_is_reported_as_it_was() -> None:
    """A runtime that does not go past the end gives fewer tokens and the right speed."""
    machine = Machine(ends_after=3)
    [cell] = measure(machine.model(), Plan((50,), 64, (1,), 1), clock=machine.clock)
    assert cell.answer_tokens == (3, 3)
    assert cell.decode == Spread(4, 4, 4, (4,))


def test_answer_of_one_token_has_no_decode_speed() -> None:
    """The first token belongs to the prefill."""
    machine = Machine(ends_after=1)
    [cell] = measure(machine.model(), Plan((50,), 64, (1,), 1), clock=machine.clock)
    assert (cell.decode, cell.steps_per_second) == (None, None)
    assert cell.compute_bandwidth_share(10**9, 1e9) is None


def test_longer_than_the_context_is_refused_at_once() -> None:
    """One sentence with both lengths and the room there is; nothing is asked."""
    machine = Machine()
    with pytest.raises(
        ConfigError, match=containing("990 tokens", "answer of 64", "1,000", "--prompt-tokens")
    ):
        measure(machine.model(), Plan((128, 990)))
    assert machine.asked == []


def test_batch_beyond_the_slots_is_refused_at_once() -> None:
    """Requests that wait for one another would be measured one after another."""
    machine = Machine()
    load = ModelLoad(4, 0, 0, 8, 0, 0)
    with pytest.raises(ConfigError, match=containing("--batch 8", "4 requests", "--slots 8")):
        measure(machine.model(load), Plan((20,)))
    assert machine.asked == []
    assert len(measure(machine.model(load), Plan((20,), 2, (4,), 1, 0))) == 1


@pytest.mark.parametrize(
    ("plan", "message"),
    [
        ({"prompt_tokens": (128, 0)}, "--prompt-tokens must be 1 or more, got 0"),
        ({"new_tokens": 0}, "--new-tokens must be 1 or more, got 0"),
        ({"batches": (1, -4)}, "--batch must be 1 or more, got -4"),
        ({"batches": ()}, "--batch must be 1 or more, got nothing"),
        ({"repeat": 0}, "--repeat must be 1 or more, got 0"),
        ({"warm_up": -1}, "--warmup must be 0 or more, got -1"),
    ],
)
def test_plan_names_what_is_wrong(plan: dict[str, Any], message: str) -> None:
    """Each number has a least value."""
    with pytest.raises(ConfigError) as caught:
        Plan(**plan)
    assert str(caught.value) == message


def test_share_of_the_bandwidth_counts_steps_and_not_tokens() -> None:
    """A step of 4 requests reads 2 GB once: 40 tokens a second are 20 GB a second, half of 40."""
    cell = Cell(128, 130, 4, (64, 64), None, None, Spread(40, 40, 40, (40,)), None)
    assert cell.steps_per_second == 10
    assert cell.compute_bandwidth_share(2 * 10**9, 40e9) == 0.5
    assert cell.compute_bandwidth_share(0, 40e9) is None
    assert cell.compute_bandwidth_share(2 * 10**9, None) is None
