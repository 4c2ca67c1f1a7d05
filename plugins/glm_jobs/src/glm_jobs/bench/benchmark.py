"""What ``glm bench`` measures, in which order."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from glm_core.chat_model import ChatModel
from glm_core.errors import ConfigError
from glm_core.records import ChatRequest, Message, Sampling

from .prompts import TOLERANCE, find_word_count, make_question
from .rates import (
    Spread,
    compute_decode_rate,
    compute_prefill_rate,
    compute_time_to_first_token,
    compute_total_rate,
    count_head_start,
)
from .streams import Clock, Timeline, run_together

WARM_UP_TOKENS = 8  # enough to allocate, compile and record everything that decoding uses
MAX_TRIES = 2  # of finding how long answers must be; the first shows how far apart they begin


@dataclass(frozen=True)
class Plan:
    """What to measure.

    Attributes:
        prompt_tokens: lengths of the question.
        new_tokens: length of the answer; with several requests at the same time, of the part that all
            of them decode together.
        batches: how many requests at the same time.
        repeat: runs of each.
        warm_up: short runs before, for each number of requests, that do not count.
    """

    prompt_tokens: tuple[int, ...] = (128, 512)
    new_tokens: int = 64
    batches: tuple[int, ...] = (1, 4, 8)
    repeat: int = 3
    warm_up: int = 1

    def __post_init__(self) -> None:
        for flag, values, least in (
            ("--prompt-tokens", self.prompt_tokens, 1),
            ("--new-tokens", (self.new_tokens,), 1),
            ("--batch", self.batches, 1),
            ("--repeat", (self.repeat,), 1),
            ("--warmup", (self.warm_up,), 0),
        ):
            wrong = [value for value in values if value < least]
            if wrong or not values:
                got = wrong[0] if wrong else "nothing"
                raise ConfigError(f"{flag} must be {least} or more, got {got}")


@dataclass(frozen=True)
class Cell:
    """What was measured with one length of question and one number of requests at the same time.

    Attributes:
        wanted_tokens: length of the question that was asked for.
        prompt_tokens: length that it had.
        batch: requests at the same time.
        answer_tokens: length of the shortest and of the longest answer.
        prefill: prompt tokens a second of a request that ran alone; ``None`` for other batches.
        first_token: seconds to the first token, the slowest request of each run.
        decode: tokens a second of all requests together while all of them decode; ``None`` if they
            never did.
        total: tokens a second from the first request to the last token, prefill included.
    """

    wanted_tokens: int
    prompt_tokens: int
    batch: int
    answer_tokens: tuple[int, int]
    prefill: Spread | None
    first_token: Spread | None
    decode: Spread | None
    total: Spread | None

    @property
    def steps_per_second(self) -> float | None:
        """Decode steps a second: every step reads all weights once and makes a token for each request."""
        return None if self.decode is None else self.decode.median / self.batch

    def compute_bandwidth_share(self, weight_bytes: int, bandwidth: float | None) -> float | None:
        """Return the share of the memory's bandwidth that reading the weights takes; ``None`` = unknown."""
        if not bandwidth or not weight_bytes or self.steps_per_second is None:
            return None
        return weight_bytes * self.steps_per_second / bandwidth


def measure(
    model: ChatModel,
    plan: Plan,
    notify: Callable[[str], None] = lambda line: None,
    *,
    clock: Clock = time.perf_counter,
) -> list[Cell]:
    """Measure everything that a plan names; batch 1 first, the shortest questions first.

    Args:
        model: any runtime's.
        plan: what to measure.
        notify: told in one line each what is measured now.
        clock: seconds.

    Raises:
        ConfigError: a question and its answer do not fit the model, or it runs fewer requests at a
            time than a batch has; before anything is measured.
        GlmError: as the runtime raised it.
    """
    _check_fit(model, plan)
    ask = _Asker(model, clock)
    words = {}
    for wanted in sorted(set(plan.prompt_tokens)):
        notify(f"finding a question of {wanted:,} tokens")
        words[wanted] = find_word_count(wanted, ask.count_tokens)
    cells = []
    for batch in sorted(set(plan.batches)):
        for run in range(plan.warm_up):
            notify(f"warm-up {run + 1} of {plan.warm_up}: batch {batch}")
            ask.run_batch(batch, min(words.values()), min(WARM_UP_TOKENS, plan.new_tokens))
        for wanted, num_words in words.items():
            new_tokens = plan.new_tokens
            if batch > 1:
                notify(f"finding the length of answers: {wanted:,} prompt tokens, batch {batch}")
                new_tokens = _find_answer_length(
                    ask, plan, batch, num_words, model.info.context_length - wanted
                )
            runs = []
            for run in range(plan.repeat):
                notify(f"run {run + 1} of {plan.repeat}: {wanted:,} prompt tokens, batch {batch}")
                runs.append(ask.run_batch(batch, num_words, new_tokens))
            cells.append(_summarize_runs(wanted, batch, runs))
    return cells


def _check_fit(model: ChatModel, plan: Plan) -> None:
    longest, context = max(plan.prompt_tokens), model.info.context_length
    if longest + plan.new_tokens > context:
        raise ConfigError(
            f"a question of {longest:,} tokens and an answer of {plan.new_tokens:,} do not fit: one request "
            f"may use {context:,} tokens here. Pass a smaller --prompt-tokens or --new-tokens."
        )
    load = model.load
    if load is not None and max(plan.batches) > load.slots:
        raise ConfigError(
            f"--batch {max(plan.batches)}: the model answers {load.slots} requests at the same time. "
            f"Pass --slots {max(plan.batches)}, or a smaller --batch."
        )


def _find_answer_length(ask: _Asker, plan: Plan, batch: int, num_words: int, room: int) -> int:
    """Find how long answers must be for ``new_tokens`` of them to be decoded together.

    The first answers begin while the others' questions are read. Found by trying: ``room`` tokens at
    most, and a runtime that answers one after another is tried twice.
    """
    length = plan.new_tokens
    for _ in range(MAX_TRIES):
        ahead = count_head_start(ask.run_batch(batch, num_words, length))
        together = length - math.ceil(ahead) + 1
        if together >= plan.new_tokens - plan.new_tokens // 8:
            break
        longer = plan.new_tokens + (math.ceil(ahead) - 1 if together > 1 else 2 * length)
        if longer > room * (1 - TOLERANCE):
            break
        length = longer
    return length


class _Asker:
    """Asks questions that no earlier one was equal to."""

    def __init__(self, model: ChatModel, clock: Clock) -> None:
        self._model = model
        self._clock = clock
        self._asked = 0

    def count_tokens(self, text: str) -> int:
        """Return the runtime's own count of a question's tokens."""
        [timeline] = run_together(self._model, [_make_request(text, 1)], clock=self._clock)
        return timeline.usage.prompt_tokens

    def run_batch(self, batch: int, num_words: int, new_tokens: int) -> list[Timeline]:
        """Send a batch of requests at once and return their timelines."""
        requests = []
        for _ in range(batch):
            self._asked += 1
            requests.append(_make_request(make_question(num_words, self._asked), new_tokens))
        return run_together(self._model, requests, clock=self._clock)


def _make_request(text: str, new_tokens: int) -> ChatRequest:
    sampling = Sampling(max_new_tokens=new_tokens, do_sample=False, ignore_eos=True)
    return ChatRequest((Message("user", text),), sampling)


def _summarize_runs(wanted: int, batch: int, runs: Sequence[Sequence[Timeline]]) -> Cell:
    timelines = [timeline for run in runs for timeline in run]
    lengths = sorted(timeline.usage.prompt_tokens for timeline in timelines)
    answers = [timeline.num_tokens for timeline in timelines]
    return Cell(
        wanted_tokens=wanted,
        prompt_tokens=lengths[len(lengths) // 2],
        batch=batch,
        answer_tokens=(min(answers), max(answers)),
        prefill=Spread.from_values(compute_prefill_rate(run[0]) for run in runs) if batch == 1 else None,
        first_token=Spread.from_values(
            max(
                (seconds for seconds in map(compute_time_to_first_token, run) if seconds is not None),
                default=None,
            )
            for run in runs
        ),
        decode=Spread.from_values(compute_decode_rate(run) for run in runs),
        total=Spread.from_values(compute_total_rate(run) for run in runs),
    )
