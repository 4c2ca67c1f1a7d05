"""Prediction: answers every row of a file through the engine, writes each answer at once, and scores all."""

from __future__ import annotations

import dataclasses
import hashlib
import time
from collections import deque
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

from glm_runtime_torch.training import TorchModel, check_request, get_adapter_key, get_training_tokenizer

from glm_core import ChatRequest
from glm_core.chat_model import collect
from glm_core.errors import AdapterError, BusyError, ConfigError, RequestError
from glm_core.records import DeltaStream, PredictJob, PredictProgress

from ._data import Columns, Row, Table, format_places, read_column_names, read_rows
from ._predict_options import PredictSettings, parse_predict_settings
from ._predictions_file import PredictionsFile, write_results
from ._retention import Retention, build_retention_requests, compare, read_retention_prompts
from ._scores import average_scores, score
from ._source import cut_answer, encode_question


def predict(model: TorchModel, job: PredictJob) -> Iterator[PredictProgress]:
    """Check a job at once; answer and score while the iterator is read.

    Writes ``generated_predictions.txt``, ``predict_results.json`` and ``all_results.json`` into the job's
    directory. An unfinished run of the same job there is continued.

    Raises:
        ConfigError: an option or the file cannot be used.
        RequestError: a question leaves no room for an answer; names its place.
        AdapterError: retention is asked for without an adapter.
    """
    settings, table, rows = read_prediction(job.options)
    prompts = read_retention_prompts(settings.retention_file) if settings.retention else ()
    if prompts and job.adapter is None:
        raise AdapterError("retention compares an adapter with the base model: load one with --adapter DIR")
    notices = list(settings.job.notices)
    if len(rows) < len(table.rows):
        empty = [row.place for row in table.rows if not row.prompt.strip()]
        notices.append(f"left out, because the prompt is empty: {format_places(empty)}")
    requests = build_requests(model, rows, settings, job.adapter)
    return _run(model, job, settings, rows, requests, prompts, notices)


def read_prediction(options: Mapping[str, Any]) -> tuple[PredictSettings, Table, tuple[Row, ...]]:
    """Return the settings of a job, its file, and the rows to answer.

    A call that trains first checks with it what comes after the training.

    Raises:
        ConfigError: an option or the file cannot be used.
    """
    settings = parse_predict_settings(options)
    table = read_rows(
        settings.test_file, _choose_columns(settings), limit=settings.job.max_predict_samples, keep_empty=True
    )
    rows = tuple(row for row in table.rows if row.prompt.strip())
    if not rows:
        raise ConfigError(f"{settings.test_file} has no row to answer: all prompts are empty")
    return settings, table, rows


def generate_answers(model: TorchModel, requests: Iterable[ChatRequest]) -> Generator[str]:
    """Yield the answers to requests in their order, computed as many at a time as the model has slots.

    Closing the iterator cancels the answers that are running.

    Raises:
        RequestError: a request does not fit.
    """
    load = model.load
    # Some requests wait in the queue, so that a slot is filled again as soon as it is free.
    ahead = load.slots + min(load.slots, load.queue_capacity)
    streams: deque[DeltaStream] = deque()
    try:
        for request in requests:
            while True:
                try:
                    streams.append(model.stream(request))
                    break
                except BusyError:
                    if not streams:
                        raise
                    yield collect(streams.popleft())[0]
            if len(streams) >= ahead:
                yield collect(streams.popleft())[0]
        while streams:
            yield collect(streams.popleft())[0]
    finally:
        for stream in streams:
            stream.close()


def build_requests(
    model: TorchModel, rows: Sequence[Row], settings: PredictSettings, adapter: str | None
) -> list[ChatRequest]:
    """Return a request for each row, all of them checked.

    Raises:
        RequestError: naming its place, if its question leaves no room for an answer.
    """
    requests = []
    for index, row in enumerate(rows):
        prompt = encode_question(
            get_training_tokenizer(model),
            row,
            max_source_length=settings.job.max_source_length,
            source_prefix=settings.job.source_prefix,
        )
        request = ChatRequest(
            prompt=prompt,
            sampling=settings.sampling,
            adapter=adapter,
            seed=None if settings.seed is None else settings.seed + index,
        )
        try:
            check_request(model, request)
        except RequestError as error:
            raise RequestError(f"{row.place}: {error}") from error
        requests.append(request)
    return requests


def measure_retention(
    model: TorchModel, adapter: str, prompts: Sequence[str]
) -> Iterator[PredictProgress | Retention]:
    """Ask base and adapter the same questions; yields progress and, as the last item, the score."""
    total = 2 * len(prompts)
    given: list[str] = []
    for name in (None, adapter):
        with closing(generate_answers(model, build_retention_requests(prompts, name))) as texts:
            for text in texts:
                given.append(text)
                yield PredictProgress(len(given), total)
    yield compare(given[: len(prompts)], given[len(prompts) :])


def _run(
    model: TorchModel,
    job: PredictJob,
    settings: PredictSettings,
    rows: Sequence[Row],
    requests: Sequence[ChatRequest],
    prompts: Sequence[str],
    notices: Iterable[str],
) -> Iterator[PredictProgress]:
    total = len(rows)
    labels, cut = _list_references(model, settings, rows)
    if cut:
        notices = (
            *notices,
            f"{cut} of {total} expected answers are cut to max_target_length before they are scored, as the "
            "original does; reference=full scores against all of each",
        )
    for notice in notices:
        yield PredictProgress(0, total, message=notice)
    with PredictionsFile(job.output_dir, _identify_job(model, job, settings, rows), labels) as file:
        found = len(file.predictions)
        if found:
            yield PredictProgress(
                found, total, message=f"going on where {job.output_dir} ends: {found} rows are answered"
            )
        started = time.perf_counter()
        with closing(generate_answers(model, requests[found:])) as texts:
            for text in texts:
                file.append(text)
                if len(file.predictions) < total:
                    yield PredictProgress(len(file.predictions), total)
        seconds = time.perf_counter() - started
        file.finish()
    scored = [pair for pair in zip(file.predictions, labels, strict=True) if pair[1].strip()]
    metrics = average_scores(score(prediction, label) for prediction, label in scored)
    for remark in _list_remarks(file.predictions, labels):
        yield PredictProgress(total, total, message=remark)
    if prompts and job.adapter is not None:
        yield PredictProgress(total, total, message=f"asking {len(prompts)} questions outside the task")
        for step in measure_retention(model, job.adapter, prompts):
            if isinstance(step, Retention):
                metrics |= step.as_metrics()
    yield _write_scores(job, file.path, metrics, total, total - found, seconds)


def _write_scores(
    job: PredictJob, path: Path, metrics: Mapping[str, float], total: int, answered: int, seconds: float
) -> PredictProgress:
    """Write the files of scores and return the last report."""
    results: dict[str, float] = {name: round(value, 4) for name, value in metrics.items()}
    results |= {"samples": total, "runtime": round(seconds, 4)}
    if answered and seconds > 0:
        results["samples_per_second"] = round(answered / seconds, 3)
    written = write_results(
        job.output_dir, "predict", {f"predict_{name}": value for name, value in results.items()}
    )
    return PredictProgress(total, total, metrics=metrics, files=(path, *written), finished=True)


def _list_references(
    model: TorchModel, settings: PredictSettings, rows: Sequence[Row]
) -> tuple[list[str], int]:
    """Return what each answer is compared with, and how many of these are cut."""
    job = settings.job
    if job.reference == "full":
        return [row.response for row in rows], 0
    tokenizer = get_training_tokenizer(model)
    references = [cut_answer(tokenizer, row.response, job.max_target_length) for row in rows]
    return [text for text, _ in references], sum(is_cut for _, is_cut in references)


def _choose_columns(settings: PredictSettings) -> Columns:
    job = settings.job
    for name in ("prompt_column", "response_column"):
        if getattr(job, name) is None:
            there = ", ".join(map(repr, read_column_names(settings.test_file)))
            raise ConfigError(f"{name} is missing; {settings.test_file} has the columns: {there or 'none'}")
    assert job.prompt_column is not None
    assert job.response_column is not None
    return Columns(job.prompt_column, job.response_column, job.history_column)


def _identify_job(
    model: TorchModel, job: PredictJob, settings: PredictSettings, rows: Sequence[Row]
) -> dict[str, Any]:
    """Return everything that decides the answers; two runs with the same identity write the same file."""
    texts = [[row.prompt, row.response, row.history] for row in rows]
    return {
        "model": [*dataclasses.astuple(model.base), model.info.dtype, model.info.weight_bytes],
        "adapter": get_adapter_key(model, job.adapter),
        "rows": hashlib.sha256(repr(texts).encode("utf-8", "surrogatepass")).hexdigest(),
        "settings": [
            settings.job.max_source_length,
            settings.job.source_prefix,
            repr(settings.sampling),
            settings.seed,
            settings.job.reference,
        ],
    }


def _list_remarks(predictions: Sequence[str], labels: Sequence[str]) -> Iterator[str]:
    empty = sum(not prediction.strip() for prediction in predictions)
    if empty:
        yield f"{empty} of {len(predictions)} answers are empty; they score 0"
    without = sum(not label.strip() for label in labels)
    if without:
        yield f"{without} of {len(labels)} rows have no expected answer; they are not scored"
