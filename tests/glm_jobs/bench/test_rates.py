"""Tests of the arithmetic from times of tokens to speeds."""

from __future__ import annotations

import pytest
from glm_jobs.bench.rates import (
    compute_decode_rate,
    compute_prefill_rate,
    compute_time_to_first_token,
    compute_total_rate,
    count_head_start,
    count_tokens_at,
)
from glm_jobs.bench.streams import Timeline

from glm_core.records import Usage


def timeline(*times: float, asked: float = 0.0, usage: Usage | None = None) -> Timeline:
    """An answer of one token at each time."""
    arrivals = tuple((time, float(number)) for number, time in enumerate(times, 1))
    return Timeline(asked, arrivals, usage or Usage(10, len(times)), "length")


def test_alone_the_gaps_between_tokens_count() -> None:
    """Five tokens are four gaps; what came before the first one is prefill."""
    assert compute_decode_rate([timeline(9, 10, 11, 12, 13)]) == 1.0


def test_prefill_of_others_is_left_out() -> None:
    """Only the span in which every stream decodes counts: here 6 to 8 with one token a second each."""
    early = timeline(1, 2, 3, 4, 5, 6, 7, 8)
    late = timeline(6, 7, 8, 9, 10)
    assert compute_decode_rate([early, late]) == 2.0


def test_token_beside_the_span_counts_with_its_share() -> None:
    """Streams in step, but seen a little apart, give the speed of their step and no token more."""
    first = timeline(1.0, 2.0, 3.0, 4.0, 5.0)
    second = timeline(1.01, 2.01, 3.01, 4.01, 5.01)
    assert compute_decode_rate([first, second]) == pytest.approx(2.0)


@pytest.mark.parametrize(
    "timelines",
    [[], [timeline(3)], [timeline()], [timeline(1, 2, 3), timeline(4, 5, 6)]],
    ids=["no stream", "one token", "no token", "one after another"],
)
def test_without_a_common_span_there_is_no_decode_speed(timelines: list[Timeline]) -> None:
    """A single token has no speed, and streams one after another none together."""
    assert compute_decode_rate(timelines) is None


def test_lead_is_what_the_first_has_when_the_last_begins() -> None:
    """Five tokens were there when the second answer began."""
    assert count_head_start([timeline(1, 2, 3, 4, 5, 6), timeline(5, 6)]) == 5
    assert count_head_start([timeline(1, 2)]) == 1


def test_several_tokens_in_one_piece_all_count() -> None:
    """A runtime may hand over text by the word; its tokens are spread over the time since the last piece."""
    answer = Timeline(0, ((1, 1), (3, 5), (4, 6)), Usage(), "stop")
    assert count_tokens_at(answer, 0.5) == 0
    assert count_tokens_at(answer, 2) == 3
    assert count_tokens_at(answer, 9) == 6
    assert compute_decode_rate([answer]) == pytest.approx(5 / 3)


def test_waiting_is_no_prefill() -> None:
    """The queue's seconds are taken off the time to the first token."""
    waited = timeline(5, usage=Usage(100, 1, queue_seconds=3, time_to_first_token=5))
    assert compute_prefill_rate(waited) == 50


def test_runtime_without_times_is_measured_from_outside() -> None:
    """The null runtime, or a proxy, reports none: then the arrival of the first token counts."""
    answer = timeline(4, 5, asked=2)
    assert compute_time_to_first_token(answer) == 2
    assert compute_prefill_rate(answer) == 5


def test_answer_without_tokens_has_no_prefill_speed() -> None:
    """Nothing came, so nothing is known."""
    assert compute_time_to_first_token(timeline()) is None
    assert compute_prefill_rate(timeline()) is None


def test_total_rate_holds_prefill_and_waiting() -> None:
    """Six tokens from the first question at 0 to the last token at 12."""
    assert compute_total_rate([timeline(2, 3, 4), timeline(8, 10, 12, asked=1)]) == 0.5
