"""Tests of ``glm bench``."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from fake_plugins import plugin, run_glm
from glm_jobs.bench import command as bench
from glm_testing import make_host, make_plugin, null_backend

from glm_core import NOT_SET, ModelLoad, cli
from glm_core.records import NotSet

SHORT = ["bench", "--model", "null", "--prompt-tokens", "6,3", "--new-tokens", "2", "--repeat", "2"]


@pytest.fixture(autouse=True)
def null_model(monkeypatch: pytest.MonkeyPatch) -> None:
    """The null runtime and backend are installed, and nothing else."""
    monkeypatch.setattr(bench, "get_default_host", lambda: make_host(null=null_backend))


def backend_measuring(measure: Callable[..., float]) -> Any:
    """The null plugin as a backend that can measure its memory."""
    return make_plugin(**vars(null_backend), measure_bandwidth=plugin(m=measure).m)


def test_table_is_for_people_and_the_last_line_for_scripts(capsys: pytest.CaptureFixture[str]) -> None:
    """Facts, one row for each length and batch with the real counts, then one line of JSON."""
    assert cli.main([*SHORT, "--batch", "1,2"]) == 0
    printed = capsys.readouterr()
    *table, last = printed.out.splitlines()
    assert table[0] == "model: null (null, 0 M)"
    assert "weights: unknown" in table
    assert "memory bandwidth: unknown" in table
    heading = next(index for index, line in enumerate(table) if line.startswith("prompt tokens"))
    rows = [line.split() for line in table[heading + 1 : heading + 5]]
    assert [row[:2] for row in rows] == [["3", "1"], ["6", "1"], ["3", "2"], ["6", "2"]]
    assert [row[2] for row in rows[:2]] == ["2", "2"]
    report = json.loads(last)
    assert report["model"] == "null"
    assert report["device"] == "null"
    assert report["weight_bytes"] is None
    assert [cell["prompt_tokens"] for cell in report["results"]] == [3, 6, 3, 6]
    assert "glm: run 2 of 2: 6 prompt tokens, batch 2" in printed.err.splitlines()


def test_headings_are_chinese_for_chinese_readers(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Language changes the table and no key of the JSON."""
    monkeypatch.setenv("GLM_LANG", "zh")
    assert cli.main([*SHORT, "--batch", "1"]) == 0
    out = capsys.readouterr().out
    assert "模型：null" in out
    assert "提示词元数" in out
    assert "prompt tokens" not in out
    assert json.loads(out.splitlines()[-1])["results"][0]["batch"] == 1


def test_json_stands_alone(capsys: pytest.CaptureFixture[str]) -> None:
    """With --json the whole of standard output is one object."""
    assert cli.main([*SHORT, "--batch", "1", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["new_tokens"] == 2
    assert set(report["results"][0]) == {
        *("wanted_tokens", "prompt_tokens", "batch", "answer_tokens", "prefill", "first_token"),
        *("decode", "total", "steps_per_second", "bandwidth_share"),
    }


def test_backend_says_how_fast_its_memory_is(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The hook is asked about the device that the model runs on."""
    asked: list[str] = []

    def measure(device: str) -> float:
        asked.append(device)
        return 50e9

    host = make_host(null=backend_measuring(measure))
    monkeypatch.setattr(bench, "get_default_host", lambda: host)
    assert cli.main([*SHORT, "--batch", "1"]) == 0
    out = capsys.readouterr().out
    assert "memory bandwidth: 50.00 GB/s" in out
    assert asked == ["null"]
    assert json.loads(out.splitlines()[-1])["bandwidth_bytes_per_second"] == 50e9


def placing(monkeypatch: pytest.MonkeyPatch, *, slots: int | None = None) -> list[int | NotSet]:
    """Replace the backend by one that notes the slots it is asked for and, if given, reserves ``slots``."""
    asked: list[int | NotSet] = []

    def place(model: Any, placement: Any) -> Any:
        asked.append(placement.slots)
        if slots is not None:
            model.load = ModelLoad(slots, 0, 0, 8, 0, 0, kv_bytes=2 * 10**9)
        return model

    members = {**vars(null_backend), "place": plugin(place=place).place}
    monkeypatch.setattr(bench, "get_default_host", lambda: make_host(null=make_plugin(**members)))
    return asked


def test_as_many_slots_as_the_largest_batch_unless_told_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    """A batch of 3 needs 3 slots; who names a number gets that one; who names no batch, what suits."""
    asked = placing(monkeypatch)
    for options in (["--batch", "1,3"], ["--batch", "2", "--slots", "5"], []):
        assert cli.main([*SHORT, *options]) == 0
    assert asked == [3, 5, NOT_SET]


def test_batches_that_nobody_asked_for_give_way_to_memory(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of the usual 1, 4 and 8 those are measured that there are slots for; the others are named."""
    placing(monkeypatch, slots=5)
    assert cli.main(SHORT) == 0
    printed = capsys.readouterr()
    report = json.loads(printed.out.splitlines()[-1])
    assert [cell["batch"] for cell in report["results"]] == [1, 1, 4, 4]
    assert (report["slots"], report["kv_bytes"]) == (5, 2 * 10**9)
    assert "KV cache: 2.00 GB" in printed.out
    assert "glm: batch 8 is left out, the KV cache has 5 slots; --batch 8 with a smaller" in printed.err


def test_batch_that_was_asked_for_does_not_give_way(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """It is an error, with the way out."""
    placing(monkeypatch, slots=5)
    assert cli.main([*SHORT, "--batch", "8"]) == 2
    assert "--batch 8: the model answers 5 requests at the same time" in capsys.readouterr().err


def test_early_end_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    """The null model answers with as many words as it was asked, here fewer than wanted."""
    short = ["bench", "--model", "null", "--prompt-tokens", "3", "--batch", "1", "--repeat", "1"]
    assert cli.main(short) == 0
    out = capsys.readouterr().out
    assert "Some answers ended before 64 tokens" in out
    assert json.loads(out.splitlines()[-1])["results"][0]["answer_tokens"] == [3, 3]
    assert cli.main([*short, "--new-tokens", "3"]) == 0
    assert "Some answers ended" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--batch", "1,x"], "--batch '1,x': expected whole numbers with commas between them, such as 1,4,8"),
        (["--prompt-tokens", ""], "--prompt-tokens '': expected whole numbers"),
        (["--batch", "0"], "--batch must be 1 or more, got 0"),
    ],
)
def test_wrong_numbers_are_refused_before_a_model_loads(
    arguments: list[str],
    message: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """One sentence each, and status 2."""
    monkeypatch.setattr(bench, "get_default_host", lambda: pytest.fail("plugins were loaded"))
    assert cli.main(["bench", *arguments]) == 2
    assert capsys.readouterr().err.startswith(f"glm: {message}")


def test_longer_than_the_context_is_one_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    """The null model has room for 2,048 tokens."""
    assert cli.main(["bench", "--model", "null", "--prompt-tokens", "3000"]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert "a question of 3,000 tokens and an answer of 64 do not fit" in printed.err.splitlines()[-1]


def test_interrupt_closes_the_model(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Ctrl-C in the middle gives 130, nothing on standard output, and a closed model."""
    opened: list[Any] = []

    def interrupted(model: Any, *rest: Any) -> Any:
        opened.append(model)
        raise KeyboardInterrupt

    monkeypatch.setattr(bench, "measure", interrupted)
    assert cli.main(SHORT) == 130
    assert opened[0]._model.closed
    assert capsys.readouterr().out == ""


def test_help_needs_no_plugin_and_no_torch() -> None:
    """The options are printed by the core alone."""
    finished = run_glm("bench", "--help")
    assert finished.returncode == 0
    assert "--prompt-tokens N[,N]" in finished.stdout
