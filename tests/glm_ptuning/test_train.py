"""A training job from its options to its files: what it writes, refuses, goes on with."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from glm_hub.checksums import write_checksums
from glm_hub.verify import verify_files
from glm_ptuning._checkpoints import Checkpoints
from glm_runtime_torch.adapters.files import read_adapter_config
from key_words import containing
from streams import close_stream
from tiny_models import tiny_checkpoint, tiny_checkpoint2
from tiny_training import losses, options, reports, train, trained_files, write_rows

import glm_core
from glm_core import AdapterError, CheckpointError, ConfigError, GlmError


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny ChatGLM-6B checkpoint."""
    return tiny_checkpoint(tmp_path_factory.mktemp("model") / "tiny")


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    """Twenty rows to learn."""
    return write_rows(tmp_path / "rows.json")


@pytest.fixture(scope="module")
def finished(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The output directory of a finished job of twelve steps; copy it to change it."""
    folder = tmp_path_factory.mktemp("finished")
    rows = write_rows(folder / "rows.json")
    train(model, folder / "out", options(rows))
    return folder / "out"


def messages(progress: list[Any]) -> str:
    return "\n".join(report.message for report in progress)


def test_the_loss_falls_and_the_adapter_answers(model: Path, rows: Path, tmp_path: Path) -> None:
    """Sixty steps, each reported, halve the loss; the output directory is an adapter that changes answers."""
    out = tmp_path / "out"
    progress = train(model, out, options(rows, max_steps=60, learning_rate=0.3))
    found = losses(progress)
    assert len(found) == 60
    assert sum(found[-5:]) < 0.6 * sum(found[:5])
    assert progress[-1].finished
    assert progress[-1].checkpoint == out / "checkpoint-60"
    with glm_core.load(model, device="cpu", dtype="float32", adapters={"tuned": out}) as chat:
        base, _ = chat.chat("你好", do_sample=False, max_new_tokens=6)
        tuned, _ = chat.chat("你好", adapter="tuned", do_sample=False, max_new_tokens=6)
    assert base != tuned


def test_what_a_job_leaves_behind(finished: Path) -> None:
    """Checkpoints hold the prefix alone; the log, results, settings and a picture lie beside them."""
    assert {path.name for path in finished.iterdir()} == {
        *("checkpoint-5", "checkpoint-10", "checkpoint-12", "glm_training.json", "trainer_state.json"),
        *("train_results.json", "all_results.json", "loss.png"),
    }
    stated = read_adapter_config(finished / "checkpoint-12")
    assert stated is not None
    assert (stated.pre_seq_len, stated.training["learning_rate"]) == (4, 0.05)
    assert (finished / "checkpoint-12" / "model.safetensors").stat().st_size < 4000
    state = json.loads((finished / "trainer_state.json").read_text())
    assert (state["global_step"], state["max_steps"]) == (12, 12)
    assert [entry["step"] for entry in state["log_history"]] == [2, 4, 6, 8, 10, 12]
    rates = [entry["learning_rate"] for entry in state["log_history"]]
    assert rates == pytest.approx([0.05 * (12 - step) / 12 for step in (1, 3, 5, 7, 9, 11)])
    results = json.loads((finished / "all_results.json").read_text())
    assert results["train_loss"] > 0
    assert results["train_samples"] == 20
    assert (finished / "loss.png").read_bytes().startswith(b"\x89PNG")
    assert json.loads((finished / "glm_training.json").read_text())["settings"]["max_steps"] == 12


def test_a_closed_job_goes_on_to_the_same_bytes(
    model: Path, finished: Path, rows: Path, tmp_path: Path
) -> None:
    """Stopped after a step between checkpoints, a job keeps that step and ends as if never stopped."""
    running = reports(model, tmp_path / "out", options(rows))
    for report in running:
        if report.step == 7:
            break
    close_stream(running)
    assert Checkpoints(tmp_path / "out").list_steps() == [5, 7]
    progress = train(model, tmp_path / "out", options(rows))
    assert "going on after" in messages(progress)
    assert len(losses(progress)) == 5
    assert trained_files(tmp_path / "out") == trained_files(finished)


def test_a_finished_job_says_so_and_does_nothing(
    model: Path, finished: Path, rows: Path, tmp_path: Path
) -> None:
    """The same command once more changes no file."""
    out = shutil.copytree(finished, tmp_path / "out")
    before = trained_files(out)
    progress = train(model, out, options(rows))
    assert "this job is finished" in messages(progress)
    assert progress[-1].checkpoint == out / "checkpoint-12"
    assert losses(progress) == []
    assert trained_files(out) == before


def test_a_finished_job_gives_its_numbers_again(
    model: Path, finished: Path, rows: Path, tmp_path: Path
) -> None:
    """And completes what a kill after the last checkpoint left out: results, log and picture."""
    out = shutil.copytree(finished, tmp_path / "out")
    numbers = json.loads((out / "all_results.json").read_text())
    assert train(model, out, options(rows))[-1].metrics == {"train_loss": numbers["train_loss"]}
    assert json.loads((out / "all_results.json").read_text()) == numbers
    for name in ("all_results.json", "train_results.json", "trainer_state.json", "loss.png"):
        (out / name).unlink()
    progress = train(model, out, options(rows))
    assert losses(progress) == []
    assert progress[-1].metrics["train_loss"] == pytest.approx(numbers["train_loss"])
    for name in ("train_results.json", "all_results.json"):
        written = json.loads((out / name).read_text())
        assert written["train_loss"] == pytest.approx(numbers["train_loss"])
    state = json.loads((finished / "trainer_state.json").read_text())
    assert json.loads((out / "trainer_state.json").read_text()) == state
    assert (out / "loss.png").is_file()


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        ({"learning_rate": 0.1}, "its learning_rate is 0.05, not 0.1"),
        ({"pre_seq_len": 5}, "its pre_seq_len is 4, not 5"),
        ({"seed": 1}, "its seed is 42, not 1"),
        ({"max_steps": 9}, "it has 12 steps, and 9 are asked for"),
        ({"gradient_accumulation_steps": 4}, "its micro batches per step is 2, not 4"),
    ],
)
def test_another_jobs_directory_is_refused(
    model: Path, finished: Path, rows: Path, tmp_path: Path, changed: dict[str, Any], named: str
) -> None:
    """What differs is named, and nothing is touched; overwrite_output_dir deletes the other's checkpoints."""
    out = shutil.copytree(finished, tmp_path / "out")
    with pytest.raises(ConfigError) as refused:
        train(model, out, options(rows, **changed))
    assert named in str(refused.value)
    assert trained_files(out) == trained_files(finished)


@pytest.mark.parametrize(
    "changed",
    [
        {"max_steps": 15},
        {"max_steps": None, "num_train_epochs": 3.0},
        {"max_steps": 14, "logging_steps": 3, "logging_first_step": True},
        {"max_steps": 14, "evaluation_strategy": "steps", "eval_steps": 1, "do_eval": True},
    ],
)
def test_a_finished_job_may_be_made_longer(
    model: Path, finished: Path, rows: Path, tmp_path: Path, changed: dict[str, Any]
) -> None:
    """More steps or epochs, another log and an evaluation go on with the steps that are done; it is told."""
    out = shutil.copytree(finished, tmp_path / "out")
    progress = train(model, out, options(rows, validation_file=str(rows), **changed))
    total = changed["max_steps"] or 15
    assert [report.step for report in progress if report.loss is not None] == list(range(13, total + 1))
    assert f"its total steps is 12, not {total}" in messages(progress)
    results = json.loads((out / "all_results.json").read_text())
    assert results["epoch"] == pytest.approx(total * 4 / 20, abs=1e-4)
    assert ("eval_loss" in results) == ("do_eval" in changed)
    again = train(model, out, options(rows, validation_file=str(rows), **changed))
    assert losses(again) == []
    assert again[-1].metrics == pytest.approx(progress[-1].metrics, abs=1e-3)


def test_other_rows_and_other_weights_are_another_job(model: Path, finished: Path, tmp_path: Path) -> None:
    """The content of the file and the base model's weights are part of a job."""
    other = write_rows(tmp_path / "other.json", seed=3)
    with pytest.raises(ConfigError, match="its content of train_file differs"):
        train(model, finished, options(other))
    rows, more = write_rows(tmp_path / "rows.json"), tiny_checkpoint(tmp_path / "more", num_layers=3)
    with pytest.raises(ConfigError, match="its base model differs"):
        train(more, finished, options(rows))


def test_overwriting_deletes_the_other_jobs_checkpoints(
    model: Path, finished: Path, rows: Path, tmp_path: Path
) -> None:
    """With overwrite_output_dir the new job starts from its first step."""
    out = shutil.copytree(finished, tmp_path / "out")
    progress = train(model, out, options(rows, seed=1, max_steps=3, overwrite_output_dir=True))
    assert "checkpoints of another job" in messages(progress)
    assert Checkpoints(out).list_steps() == [3]
    assert len(losses(progress)) == 3


def test_overwriting_goes_on_with_the_same_job(
    model: Path, finished: Path, rows: Path, tmp_path: Path
) -> None:
    """The README's command, which always says overwrite, resumes its own unfinished job."""
    out = shutil.copytree(finished, tmp_path / "out")
    shutil.rmtree(out / "checkpoint-12")
    progress = train(model, out, options(rows, overwrite_output_dir=True))
    assert len(losses(progress)) == 2
    assert trained_files(out) == trained_files(finished)


def test_two_jobs_cannot_share_a_directory(model: Path, rows: Path, tmp_path: Path) -> None:
    """While one trains there, another is refused; afterwards nothing of the lock is left."""
    running = reports(model, tmp_path / "out", options(rows))
    for report in running:
        if report.step == 1:
            break
    with pytest.raises(ConfigError, match="another process is training in"):
        train(model, tmp_path / "out", options(rows))
    close_stream(running)
    train(model, tmp_path / "out", options(rows))
    assert not list((tmp_path / "out").glob("*.lock"))
    assert not list((tmp_path / "out").glob(".*"))


def test_a_torn_checkpoint_is_left_out(model: Path, finished: Path, rows: Path, tmp_path: Path) -> None:
    """One whose file is cut off, and one that was never finished, are said and not used."""
    out = shutil.copytree(finished, tmp_path / "out")
    torn = out / "checkpoint-12" / "model.safetensors"
    os.truncate(torn, torn.stat().st_size // 2)
    (out / "unfinished-checkpoint-11").mkdir()
    progress = train(model, out, options(rows))
    assert "checkpoint-12 is incomplete and is left out" in messages(progress)
    assert "checkpoint-11 was not finished and is left out" in messages(progress)
    assert f"going on after {out / 'checkpoint-10'}" in messages(progress)
    assert trained_files(out) == trained_files(finished)
    assert not (out / "unfinished-checkpoint-11").exists()


def test_a_checkpoint_can_be_named(model: Path, finished: Path, rows: Path, tmp_path: Path) -> None:
    """resume_from_checkpoint goes on from that one; one of another place is refused."""
    out = shutil.copytree(finished, tmp_path / "out")
    progress = train(model, out, options(rows, resume_from_checkpoint=str(out / "checkpoint-5")))
    assert len(losses(progress)) == 7
    assert trained_files(out) == trained_files(finished)
    with pytest.raises(ConfigError, match="is no complete checkpoint of"):
        train(model, tmp_path / "new", options(rows, resume_from_checkpoint=str(out / "checkpoint-5")))


def test_only_so_many_checkpoints_are_kept(model: Path, rows: Path, tmp_path: Path) -> None:
    """save_total_limit deletes the oldest."""
    train(model, tmp_path / "out", options(rows, save_steps=3, save_total_limit=2))
    assert Checkpoints(tmp_path / "out").list_steps() == [9, 12]


@pytest.mark.parametrize(("steps", "best"), [(12, 12), (80, 40)])
def test_evaluation_is_logged_and_the_best_checkpoint_kept(
    model: Path, tmp_path: Path, steps: int, best: int
) -> None:
    """The loss on other rows stands in the log; load_best_model_at_end reports the best step's checkpoint.

    What is evaluated at the end are the weights of that one, which are not the last ones if a job that sees
    one row only goes on for long.
    """
    rows = tmp_path / "rows.json"
    rows.write_text('{"content": "hello", "summary": "世界"}\n', "utf-8")
    others = [json.dumps({"content": "hello", "summary": text}) for text in ("a", "b", "how do I", "x y")]
    (tmp_path / "dev.json").write_text("\n".join(others))
    job = options(
        rows,
        validation_file=str(tmp_path / "dev.json"),
        evaluation_strategy="steps",
        eval_steps=steps // 4 or 1,
        do_eval=True,
        load_best_model_at_end=True,
        save_total_limit=1,
        per_device_eval_batch_size=4,
        max_steps=steps,
        save_steps=100,
        lr_scheduler_type="constant",
    )
    progress = train(model, tmp_path / "out", job)
    state = json.loads((tmp_path / "out" / "trainer_state.json").read_text())
    evaluations = {
        entry["step"]: entry["eval_loss"] for entry in state["log_history"] if "eval_loss" in entry
    }
    assert len(evaluations) == 4
    assert min(evaluations, key=lambda step: evaluations[step]) == best
    assert state["best_model_checkpoint"] == f"checkpoint-{best}"
    assert progress[-1].checkpoint == tmp_path / "out" / f"checkpoint-{best}"
    assert progress[-1].metrics["eval_loss"] == pytest.approx(evaluations[best], rel=1e-5)
    results = json.loads((tmp_path / "out" / "eval_results.json").read_text())
    assert results["eval_loss"] == progress[-1].metrics["eval_loss"]
    again = train(model, tmp_path / "out", job)[-1]
    assert (again.checkpoint, again.metrics) == (progress[-1].checkpoint, progress[-1].metrics)


def test_a_trained_prefix_can_be_trained_on(model: Path, finished: Path, rows: Path, tmp_path: Path) -> None:
    """ptuning_checkpoint starts from its weights; another length is refused with both."""
    job = options(rows, ptuning_checkpoint=str(finished / "checkpoint-12"), max_steps=1, prefix_dropout=0)
    started = losses(train(model, tmp_path / "out", job))[0]
    fresh = losses(train(model, tmp_path / "fresh", options(rows, max_steps=1, prefix_dropout=0)))[0]
    assert started != fresh
    with pytest.raises(AdapterError, match=containing("pre_seq_len 4", "pre_seq_len 6")):
        train(model, tmp_path / "other", {**job, "pre_seq_len": 6})


@pytest.mark.parametrize(
    ("dtype", "scheme"), [("bfloat16", "none"), ("float16", "none"), ("float32", "int4")]
)
def test_the_base_may_be_half_or_quantised(
    model: Path, rows: Path, tmp_path: Path, dtype: str, scheme: str
) -> None:
    """The prefix trains in float32 over a base in another precision; float16 scales its losses."""
    job = options(rows, prefix_projection=True, learning_rate=0.01, max_steps=6)
    progress = train(model, tmp_path / "out", job, dtype=dtype, quantize=scheme)
    assert len(losses(progress)) == 6
    stated = read_adapter_config(tmp_path / "out" / "checkpoint-6")
    assert stated is not None
    assert (stated.training["dtype"], stated.training["quantization"]) == (dtype, scheme)


def test_gradient_checkpointing_ends_in_the_same_bytes(
    model: Path, finished: Path, rows: Path, tmp_path: Path
) -> None:
    """It costs time and changes nothing; a job may be gone on with under it."""
    train(model, tmp_path / "out", options(rows, gradient_checkpointing=True))
    assert trained_files(tmp_path / "out") == trained_files(finished)


def test_all_weights_can_be_trained(model: Path, rows: Path, tmp_path: Path) -> None:
    """Without a prefix the whole model learns in float32, resumes, and loads as a model of its own."""
    job = options(rows, pre_seq_len=0, max_steps=4, save_steps=2, learning_rate=1e-3)
    progress = train(model, tmp_path / "out", job)
    directory = progress[-1].checkpoint
    assert directory is not None
    with glm_core.load(directory, device="cpu", dtype="float32") as chat:
        chat.chat("你好", max_new_tokens=2)
    whole = (directory / "model.safetensors").read_bytes()
    shutil.rmtree(directory)
    train(model, tmp_path / "out", job)
    assert (directory / "model.safetensors").read_bytes() == whole
    with pytest.raises(ConfigError, match="which quantised ones cannot be"):
        train(model, tmp_path / "no", job, quantize="int8")


def test_another_family_trains_with_the_same_code(rows: Path, tmp_path: Path) -> None:
    """A ChatGLM3 checkpoint gives an adapter of its family."""
    other = tiny_checkpoint2(tmp_path / "glm3")
    progress = train(other, tmp_path / "out", options(rows, max_steps=2))
    assert progress[-1].checkpoint is not None
    stated = read_adapter_config(progress[-1].checkpoint)
    assert stated is not None
    assert stated.family == "chatglm3"


def test_replayed_rows_are_counted(model: Path, rows: Path, tmp_path: Path) -> None:
    """A replay file's rows join every epoch."""
    replay = write_rows(tmp_path / "replay.json", 4, seed=1)
    job = options(rows, replay_file=str(replay), replay_share=0.2, max_steps=1)
    assert "5 of 25 rows of an epoch are replayed" in messages(train(model, tmp_path / "out", job))


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"train_file": None}, "train_file is missing"),
        ({"prompt_column": None}, "prompt_column is missing: .* has the columns 'content', 'summary'"),
        ({"evaluation_strategy": "steps"}, "validation_file is missing"),
        ({"lr_scheduler_type": "wavy"}, "lr_scheduler_type 'wavy' cannot be used"),
        ({"lr_scheduler_type": "reduce_lr_on_plateau"}, "cannot be used"),
        ({"train_file": "/nowhere/rows.json"}, "cannot be read: No such file"),
    ],
)
def test_a_job_that_cannot_run_says_why(
    model: Path, rows: Path, tmp_path: Path, changed: dict[str, Any], message: str
) -> None:
    """Missing files and settings are named in one sentence, before a step is done."""
    job = {name: value for name, value in {**options(rows), **changed}.items() if value is not None}
    with pytest.raises(ConfigError, match=message):
        train(model, tmp_path / "out", job)


def test_a_diverging_job_keeps_its_last_checkpoint(
    model: Path, rows: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A loss that is no number stops the job with a diagnosis; earlier checkpoints are whole."""
    from glm_ptuning import _loop

    original, calls = vars(_loop)["compute_token_losses"], []

    def broken(*arguments: Any, **settings: Any) -> torch.Tensor:
        calls.append(1)
        found = original(*arguments, **settings)
        return found * float("nan") if len(calls) > 14 else found

    monkeypatch.setattr(_loop, "compute_token_losses", broken)
    with pytest.raises(GlmError, match=containing("step 8", "nan", "checkpoint-5")):
        train(model, tmp_path / "out", options(rows))
    assert Checkpoints(tmp_path / "out").list_steps() == [5]
    assert json.loads((tmp_path / "out" / "trainer_state.json").read_text())["global_step"] == 8


FILES = ("model.safetensors", "glm_adapter.json", "optimizer.safetensors", "training_state.json")


@pytest.mark.parametrize("name", [*FILES, "trainer_state.json"])
def test_a_checkpoint_that_changed_on_the_disk_is_not_resumed(
    model: Path, finished: Path, rows: Path, tmp_path: Path, name: str
) -> None:
    """One bit is enough: directory and file are named, `glm verify` finds it, without it the job goes on."""
    out = shutil.copytree(finished, tmp_path / "out")
    shutil.rmtree(out / "checkpoint-12")
    assert "as they should be" in verify_files(out / "checkpoint-10")
    content = bytearray((out / "checkpoint-10" / name).read_bytes())
    content[len(content) // 2] ^= 1
    (out / "checkpoint-10" / name).write_bytes(content)
    with pytest.raises(CheckpointError, match=name):
        verify_files(out / "checkpoint-10")
    with pytest.raises(ConfigError, match=f"checkpoint-10 is damaged.*{name}.*delete this directory"):
        train(model, out, options(rows))
    shutil.rmtree(out / "checkpoint-10")
    assert "going on after" in messages(train(model, out, options(rows)))
    assert trained_files(out) == trained_files(finished)


@pytest.mark.parametrize("value", [None, -1, "12", 1e400, [], {}, [[{}]], True])
@pytest.mark.parametrize(
    ("name", "key"),
    [
        *(("training_state.json", key) for key in ("step", "progress", "optimizer", "guard", "random")),
        *(("training_state.json", f"progress.{key}") for key in ("step", "loss_sum", "best_step")),
        *(("training_state.json", "guard.first"), ("training_state.json", "threads")),
        ("trainer_state.json", "log_history"),
    ],
)
def test_a_checkpoint_with_other_values_is_named_or_resumed(
    model: Path, finished: Path, rows: Path, tmp_path: Path, name: str, key: str, value: Any
) -> None:
    """Values that no job writes, sealed as if one had: never another error than the one for the user."""
    out = shutil.copytree(finished, tmp_path / "out")
    shutil.rmtree(out / "checkpoint-12")
    directory = out / "checkpoint-10"
    content = json.loads((directory / name).read_text())
    outer, _, inner = key.partition(".")
    (content[outer] if inner else content)[inner or outer] = value
    (directory / name).write_text(json.dumps(content))
    (directory / "complete.json").unlink()
    sealed = [path.name for path in directory.iterdir() if path.name != "glm_checksums.json"]
    write_checksums(directory, sealed)
    sizes = {path.name: path.stat().st_size for path in directory.iterdir()}
    (directory / "complete.json").write_text(json.dumps({"step": 10, "files": sizes}))
    try:
        train(model, out, options(rows))
    except ConfigError as error:
        assert "checkpoint-10 is damaged" in str(error)  # noqa: PT017  # being resumed is right too


@pytest.mark.parametrize("length", [10**5, 2**20])
def test_a_prefix_longer_than_the_model_takes_is_refused_before_it_is_made(
    model: Path, rows: Path, tmp_path: Path, length: int
) -> None:
    """A digit too many is a sentence with both numbers, and takes no memory."""
    with pytest.raises(ConfigError, match=f"pre_seq_len {length:,}.*tokens"):
        train(model, tmp_path / "out", options(rows, pre_seq_len=length))


def test_a_model_of_another_runtime_is_declined() -> None:
    """The trainer answers None for what is no model of the torch runtime."""
    from glm_ptuning.plugin import train as hook
    from glm_testing.null_backend import NullModel

    from glm_core.records import TrainJob

    assert hook(model=NullModel("null"), job=TrainJob("ptuning", Path("out"))) is None


@pytest.mark.parametrize("name", ["model", "ptuning_checkpoint", "the whole job", "train_file"])
def test_overwriting_never_deletes_what_the_job_reads(
    model: Path, finished: Path, rows: Path, tmp_path: Path, name: str
) -> None:
    """A model, prefix or file in one of the checkpoints that would go: refused, and nothing is touched."""
    out, source, more = tmp_path / "out", model, {}
    shutil.copytree(finished, out)
    inside = out / "checkpoint-12"
    if name == "model":
        source = inside / "tuned"
        shutil.copytree(model, source)
    elif name == "train_file":
        rows = inside / "rows.json"
        shutil.copy(finished.parent / "rows.json", rows)
    else:
        more = {"ptuning_checkpoint": str(inside if name == "ptuning_checkpoint" else out)}
    before = sorted(out.rglob("*"))
    with pytest.raises(ConfigError, match="overwrite_output_dir"):
        train(source, out, options(rows, overwrite_output_dir=True, seed=5, **more))
    assert sorted(out.rglob("*")) == before


def test_the_models_own_directory_is_no_output_directory(model: Path, rows: Path, tmp_path: Path) -> None:
    """Its checkpoints would stand among the model's files, and the directory would be no adapter."""
    copy, link = tmp_path / "copy", tmp_path / "link"
    shutil.copytree(model, copy)
    link.symlink_to(copy)
    for out in (copy, link, copy / ".." / "copy"):
        with pytest.raises(ConfigError, match="the model itself"):
            train(copy, out, options(rows))
    assert sorted(path.name for path in copy.iterdir()) == sorted(path.name for path in model.iterdir())
