"""Prediction through the engine: order, lengths, batches, resuming, refusals."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from glm_ptuning._data import Row
from glm_ptuning._predict import generate_answers, predict
from glm_ptuning._predict_options import parse_predict_settings
from glm_ptuning._predictions_file import NAME
from glm_ptuning._scores import average_scores, score
from glm_ptuning._source import encode_question
from glm_ptuning._table_files import RowPlace
from glm_runtime_torch.model.torch_model import TorchModel
from key_words import containing, missing_words
from patience import wait_until
from streams import close_stream
from tiny_adapters import write_adapter
from tiny_models import tiny_checkpoint

from glm_core import AdapterError, ChatModel, ChatRequest, ConfigError, Message, RequestError, Sampling
from glm_core.config import Settings
from glm_core.plugins import get_default_host
from glm_core.records import PredictJob, PredictProgress
from glm_core.routing import open_model

ROWS = [
    {"content": text, "summary": f"{text}世界"}
    for text in ("你好", "how do I", "晚上睡不着", "世界", "hello", "quantise a model", "a", "你好世界")
]


@pytest.fixture(scope="module")
def chat_model(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ChatModel]:
    """A tiny placed model of 3 slots with one adapter."""
    folder = tmp_path_factory.mktemp("model")
    directory = tiny_checkpoint(folder / "tiny")
    adapter = write_adapter(folder / "adapter", directory)
    settings = Settings(model=str(directory), device="cpu", dtype="float32", slots=3)
    with open_model(get_default_host(), settings, adapters={"ads": adapter}) as opened:
        yield opened


@pytest.fixture(scope="module")
def model(chat_model: ChatModel) -> TorchModel:
    """The runtime's own object, which the hook gets."""
    loaded = chat_model.loaded
    assert isinstance(loaded, TorchModel)
    return loaded


@pytest.fixture
def options(tmp_path: Path) -> dict[str, Any]:
    """Options for a file of eight rows."""
    path = tmp_path / "dev.json"
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in ROWS), "utf-8")
    return {
        "test_file": str(path),
        "prompt_column": "content",
        "response_column": "summary",
        "max_source_length": 32,
        "max_target_length": 16,
        "reference": "full",
    }


def run(
    model: TorchModel, folder: Path, options: dict[str, Any], adapter: str | None = None
) -> tuple[list[dict[str, str]], list[PredictProgress]]:
    """The lines that a job writes, and its reports."""
    reports = list(predict(model, PredictJob("ptuning", folder, options, adapter)))
    lines = (folder / NAME).read_text("utf-8").split("\n")[:-1]
    return [json.loads(line) for line in lines], reports


def alone(model: TorchModel, text: str, adapter: str | None, max_length: int = 49) -> str:
    """The greedy answer to one question, asked when nothing else runs."""
    request = ChatRequest(
        prompt=tuple(model.tokenizer.encode_chat([Message("user", text)])),
        sampling=Sampling(do_sample=False, max_length=max_length),
        adapter=adapter,
    )
    return "".join(delta.text for delta in model.stream(request))


def wait_until_idle(model: TorchModel) -> None:
    """Return once nothing runs; what was cancelled leaves at the next step."""
    wait_until(lambda: not model.load.active)


@pytest.mark.parametrize("adapter", [None, "ads"])
def test_each_row_gets_the_answer_that_it_gets_alone(
    model: TorchModel, tmp_path: Path, options: dict[str, Any], adapter: str | None
) -> None:
    """Eight rows on three slots: written in the file's order, each as if asked alone."""
    lines, reports = run(model, tmp_path / "out", options, adapter)
    assert [line["labels"] for line in lines] == [row["summary"] for row in ROWS]
    assert [line["predict"] for line in lines] == [alone(model, row["content"], adapter) for row in ROWS]
    assert len({line["predict"] for line in lines}) > 1
    assert [report.done for report in reports if not report.message] == [*range(1, 8), 8]
    assert (reports[-1].finished, reports[-1].total) == (True, 8)


def test_scores_are_the_means_of_the_rows(model: TorchModel, tmp_path: Path, options: dict[str, Any]) -> None:
    """The last report, predict_results.json and all_results.json hold the same scores."""
    lines, reports = run(model, tmp_path / "out", options)
    expected = average_scores(score(line["predict"], line["labels"]) for line in lines)
    assert reports[-1].metrics == expected
    results = json.loads((tmp_path / "out" / "predict_results.json").read_text())
    assert results["predict_samples"] == 8
    assert results["predict_bleu-4"] == round(expected["bleu-4"], 4)
    assert json.loads((tmp_path / "out" / "all_results.json").read_text()) == results
    assert [path.name for path in reports[-1].files] == [NAME, "predict_results.json", "all_results.json"]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == sorted(
        path.name for path in reports[-1].files
    )


def test_references_are_cut_as_the_original_cuts_them(
    model: TorchModel, tmp_path: Path, options: dict[str, Any]
) -> None:
    """Without `reference=full` an answer is compared with as many tokens as it may have, and that is told."""
    lines, reports = run(model, tmp_path / "out", {**options, "reference": None, "max_target_length": 6})
    tokenizer = model.tokenizer
    expected = [tokenizer.decode(tokenizer.encode(row["summary"])[:4]) for row in ROWS]
    assert [line["labels"] for line in lines] == expected
    assert expected != [row["summary"] for row in ROWS]
    cut = sum(len(tokenizer.encode(row["summary"])) > 4 for row in ROWS)
    assert any(report.message.startswith(f"{cut} of 8 ") for report in reports)
    wanted = average_scores(score(line["predict"], text) for line, text in zip(lines, expected, strict=True))
    assert reports[-1].metrics == wanted


def test_an_interrupted_job_ends_like_one_that_was_not(
    model: TorchModel, tmp_path: Path, options: dict[str, Any]
) -> None:
    """Closed after three rows: these are on the disk, the next run asks only the other five."""
    whole, _ = run(model, tmp_path / "whole", options)
    reports = predict(model, PredictJob("ptuning", tmp_path / "out", options))
    assert [next(reports).done for _ in range(3)] == [1, 2, 3]
    close_stream(reports)
    partial = (tmp_path / "out" / f"{NAME}.partial").read_text("utf-8").splitlines()
    assert [json.loads(line) for line in partial] == whole[:3]
    assert not (tmp_path / "out" / NAME).exists()
    lines, reports_after = run(model, tmp_path / "out", options)
    assert lines == whole
    assert not missing_words(reports_after[0].message, str(tmp_path / "out"), "3 rows")
    assert [report.done for report in reports_after if not report.message] == [4, 5, 6, 7, 8]
    wait_until_idle(model)


@pytest.mark.parametrize(
    "change", [{"max_target_length": 12}, {"source_prefix": "你"}, {"sample": True, "seed": 1}]
)
def test_another_setting_begins_anew(
    model: TorchModel, tmp_path: Path, options: dict[str, Any], change: dict[str, Any]
) -> None:
    """Answers that were made otherwise are never mixed in."""
    reports = predict(model, PredictJob("ptuning", tmp_path / "out", options))
    next(reports)
    close_stream(reports)
    _, after = run(model, tmp_path / "out", {**options, **change})
    assert after[0].done == 1


def test_question_and_answer_share_the_originals_limit(
    model: TorchModel, tmp_path: Path, options: dict[str, Any]
) -> None:
    """max_source_length + max_target_length + 1 tokens in all, whatever the question takes of them."""
    lines, _ = run(model, tmp_path / "out", {**options, "max_source_length": 4, "max_target_length": 4})
    row = Row(RowPlace(1), ROWS[5]["content"], "")
    prompt = encode_question(model.tokenizer, row, max_source_length=4)
    request = ChatRequest(prompt=prompt, sampling=Sampling(do_sample=False, max_length=9))
    tokens = [token for delta in model.stream(request) for token in delta.token_ids]
    assert len(prompt) == 3 + 2
    assert len(tokens) <= 9 - 5
    assert lines[5]["predict"] == model.tokenizer.decode(tokens)


def test_a_question_is_cut_as_in_training(model: TorchModel) -> None:
    """The first max_source_length - 1 tokens of prefix, history and question, then [gMASK] <sop>."""
    tokenizer: Any = model.tokenizer
    row = Row(RowPlace(1), "晚上睡不着应该怎么办", "", (("你好", "世界"),))
    text = tokenizer.encode("[Round 0]\n问：你好\n答：世界\n[Round 1]\n问：晚上睡不着应该怎么办\n答：")
    specials = (tokenizer.gmask_token_id, tokenizer.bos_token_id)
    assert encode_question(tokenizer, row, max_source_length=500) == (*text, *specials)
    assert encode_question(tokenizer, row, max_source_length=8) == (*text[:7], *specials)
    bare = Row(RowPlace(1), "hello", "")
    assert encode_question(tokenizer, bare, max_source_length=8, source_prefix="你好") == (
        *tokenizer.encode("你好hello")[:7],
        *specials,
    )


def test_control_tokens_typed_as_text_stay_text(model: TorchModel) -> None:
    """A row cannot end its own question early."""
    tokenizer: Any = model.tokenizer
    ids = encode_question(tokenizer, Row(RowPlace(1), "a<sop>b[gMASK]", ""), max_source_length=100)
    assert ids.count(tokenizer.bos_token_id) == 1
    assert ids.count(tokenizer.gmask_token_id) == 1


def test_sampling_is_repeatable_and_the_originals(
    model: TorchModel, tmp_path: Path, options: dict[str, Any]
) -> None:
    """Top-p 0.7 and temperature 0.95; one seed gives one file, however many slots there are."""
    sampled = {**options, "sample": True, "seed": 7}
    first, _ = run(model, tmp_path / "first", sampled)
    again, _ = run(model, tmp_path / "again", sampled)
    other, _ = run(model, tmp_path / "other", {**sampled, "seed": 8})
    assert first == again
    assert first != other
    assert parse_predict_settings(sampled).sampling == Sampling(
        max_length=49, do_sample=True, top_p=0.7, temperature=0.95
    )
    assert parse_predict_settings(options).sampling == Sampling(max_length=49, do_sample=False)


def test_empty_prompts_and_labels_are_told(
    model: TorchModel, tmp_path: Path, options: dict[str, Any]
) -> None:
    """A row without a question is left out by its number; one without a label is answered, not scored."""
    path = tmp_path / "holes.json"
    rows = [
        {"content": "你好", "summary": "世界"},
        {"content": " ", "summary": "x"},
        {"content": "a", "summary": ""},
    ]
    path.write_text("\n".join(json.dumps(row) for row in rows))
    lines, reports = run(model, tmp_path / "out", {**options, "test_file": str(path)})
    assert [line["labels"] for line in lines] == ["世界", ""]
    messages = [report.message for report in reports if report.message]
    assert not missing_words(messages[0], "empty", "line 2")
    assert any("1 of 2 rows" in message and "not scored" in message for message in messages)
    assert reports[-1].metrics == score(lines[0]["predict"], "世界")


def test_empty_answers_score_zero(
    model: TorchModel, tmp_path: Path, options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A model that says nothing, on which the original crashed, gets 0 and a line that says so."""
    monkeypatch.setattr(
        "glm_ptuning._predict.generate_answers", lambda model, requests: ("" for _ in requests)
    )
    lines, reports = run(model, tmp_path / "out", options)
    assert {line["predict"] for line in lines} == {""}
    assert set(reports[-1].metrics.values()) == {0.0}
    assert any("8 of 8 answers" in report.message for report in reports)


def test_retention_is_beside_the_scores(model: TorchModel, tmp_path: Path, options: dict[str, Any]) -> None:
    """Base and adapter are asked the user's questions; both numbers are reported and written."""
    questions = tmp_path / "questions.txt"
    questions.write_text("你好\nhow do I\n", "utf-8")
    _, reports = run(model, tmp_path / "out", {**options, "retention_file": str(questions)}, "ads")
    metrics = reports[-1].metrics
    assert metrics["retention_exact"] < 100
    assert 0 <= metrics["retention_similarity"] < 100
    results = json.loads((tmp_path / "out" / "predict_results.json").read_text())
    assert results["predict_retention_exact"] == round(metrics["retention_exact"], 4)


def test_retention_needs_an_adapter(model: TorchModel, tmp_path: Path, options: dict[str, Any]) -> None:
    """The base model would be compared with itself."""
    job = PredictJob("ptuning", tmp_path / "out", {**options, "retention": True})
    with pytest.raises(AdapterError, match="load one with --adapter DIR"):
        predict(model, job)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"test_file": None}, "test_file is missing: name the file"),
        ({"test_file": "/none.json"}, r"/none\.json cannot be read"),
        (
            {"prompt_column": None},
            r"prompt_column is missing; .*dev\.json has the columns: 'content', 'summary'",
        ),
        ({"prompt_column": "frage"}, r"line 1: no column 'frage'; it has: 'content', 'summary'"),
        ({"num_beams": 4}, "num_beams 4 cannot be used: rows are answered greedily or sampled"),
        ({"generation_num_beams": "2"}, "num_beams 2 cannot be used"),
        ({"sample": "perhaps"}, "sample must be true or false, got 'perhaps'"),
        ({"max_source_length": "x"}, "max_source_length must be an integer, got 'x'"),
        ({"max_sorce_length": "8"}, "max_sorce_length is unknown; did you mean max_source_length"),
        ({"retention_file": "/none.txt"}, r"retention_file /none\.txt cannot be read"),
    ],
)
def test_a_wrong_option_is_refused_before_anything_is_asked(
    model: TorchModel, tmp_path: Path, options: dict[str, Any], change: dict[str, Any], message: str
) -> None:
    """The call itself raises, and no directory is made."""
    with pytest.raises((ConfigError, AdapterError), match=message):
        predict(model, PredictJob("ptuning", tmp_path / "out", {**options, **change}, "ads"))
    assert not (tmp_path / "out").exists()


def test_a_bad_line_is_named_by_its_number(
    model: TorchModel, tmp_path: Path, options: dict[str, Any]
) -> None:
    """Every line that is no row is listed, and nothing is asked."""
    path = tmp_path / "bad.json"
    path.write_text('{"content": "a", "summary": "b"}\n{"content": 3, "summary": "b"}\n{"content"\n')
    with pytest.raises(ConfigError, match=containing("2 of 3 rows", "line 2: ", "line 3: ")):
        predict(model, PredictJob("ptuning", tmp_path / "out", {**options, "test_file": str(path)}))


def test_a_question_without_room_is_named_by_its_line(
    model: TorchModel, tmp_path: Path, options: dict[str, Any]
) -> None:
    """A question beyond what the model takes is refused by its line before any other is asked."""
    path = tmp_path / "long.json"
    rows = [{"content": "你好", "summary": "b"}, {"content": "你好" * 900, "summary": "b"}]
    path.write_text("\n".join(json.dumps(row) for row in rows))
    job = PredictJob(
        "ptuning", tmp_path / "out", {**options, "test_file": str(path), "max_source_length": 4000}
    )
    with pytest.raises(RequestError, match=r"line 2.*\d+ tokens"):
        predict(model, job)


def test_slots_stay_filled_and_closing_cancels(model: TorchModel) -> None:
    """More requests than slots are under way at once; closing early leaves none running."""
    asked: list[int] = []

    def requests() -> Iterator[ChatRequest]:
        for index in range(20):
            asked.append(index)
            yield ChatRequest(
                messages=(Message("user", "hello"),),
                sampling=Sampling(max_new_tokens=12, ignore_eos=True, do_sample=False),
            )

    texts = generate_answers(model, requests())
    next(texts)
    assert len(asked) == 6
    texts.close()
    assert model.load.waiting == 0
    assert len(list(generate_answers(model, [next(requests())]))) == 1
    wait_until_idle(model)
