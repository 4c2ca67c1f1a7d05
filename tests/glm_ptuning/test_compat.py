"""The original README's training call, with import, model and paths changed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from glm_ptuning._compat import ptuning
from goldens import fixtures_or_skip
from key_words import containing
from tiny_models import tiny_checkpoint
from tiny_training import write_rows

import glm_core
import glm_core.compat as ChatGLM6Bpkg
from glm_core import AdapterError, CheckpointError, ConfigError, GlmError


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny ChatGLM-6B checkpoint of 64 input features."""
    return tiny_checkpoint(tmp_path_factory.mktemp("model") / "tiny", hidden_size=64)


def readme_call(model: Path | str, folder: Path, rows: Path, **changed: Any) -> dict[str, float]:
    """The README's keywords; only sizes are smaller."""
    keywords: dict[str, Any] = {
        "do_train": True,
        "train_file": str(rows),
        "validation_file": str(rows),
        "prompt_column": "content",
        "response_column": "summary",
        "overwrite_cache": True,
        "model_name_or_path": str(model),
        "output_dir": str(folder / "output"),
        "overwrite_output_dir": True,
        "max_source_length": 64,
        "max_target_length": 64,
        "per_device_train_batch_size": 1,
        "per_device_eval_batch_size": 1,
        "gradient_accumulation_steps": 4,
        "predict_with_generate": True,
        "max_steps": 4,
        "logging_steps": 2,
        "save_steps": 2,
        "learning_rate": 2e-2,
        "pre_seq_len": 8,
        "quantization_bit": 4,
        "no_cuda": True,
        "report_to": "none",
        **changed,
    }
    return ChatGLM6Bpkg.ptuning.ptuning(**keywords)


def test_the_readmes_training_and_inference_run(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Training on an int4 base and prediction with its checkpoint give numbers and the original's files."""
    rows = write_rows(tmp_path / "rows.json", 8)
    trained = readme_call(model, tmp_path, rows)
    assert trained["train_loss"] > 0
    said = capsys.readouterr().err
    assert "glm: step 4 of 4: loss " in said
    checkpoint = tmp_path / "output" / "checkpoint-4"
    predicted = readme_call(
        model,
        tmp_path,
        rows,
        do_train=False,
        do_predict=True,
        test_file=str(rows),
        ptuning_checkpoint=str(checkpoint),
    )
    assert {"predict_bleu-4", "predict_rouge-l"} <= predicted.keys()
    answers = (tmp_path / "output" / "generated_predictions.txt").read_text("utf-8").splitlines()
    assert [json.loads(line)["labels"] for line in answers][:1] == ["世界"]
    assert len(answers) == 8
    everything = json.loads((tmp_path / "output" / "all_results.json").read_text("utf-8"))
    assert {"train_loss", "predict_bleu-4"} <= everything.keys()
    with pytest.raises(AdapterError, match=containing("pre_seq_len 8", "pre_seq_len 7", "pre_seq_len=8")):
        readme_call(
            model,
            tmp_path,
            rows,
            do_train=False,
            do_predict=True,
            test_file=str(rows),
            ptuning_checkpoint=str(checkpoint),
            pre_seq_len=7,
        )


def test_evaluation_scores_answers_if_asked_for(model: Path, tmp_path: Path) -> None:
    """do_eval gives the loss, and with predict_with_generate the scores of generated answers."""
    rows = write_rows(tmp_path / "rows.json", 4)
    metrics = readme_call(model, tmp_path, rows, do_eval=True, max_steps=1, quantization_bit=None)
    assert {"train_loss", "eval_loss", "eval_bleu-4"} <= metrics.keys()
    stored = json.loads((tmp_path / "output" / "all_results.json").read_text("utf-8"))
    assert stored["eval_loss"] == metrics["eval_loss"]
    again = readme_call(
        model,
        tmp_path,
        rows,
        do_train=False,
        do_eval=True,
        predict_with_generate=False,
        quantization_bit=None,
        ptuning_checkpoint=str(tmp_path / "output" / "checkpoint-1"),
    )
    assert again == {"eval_loss": pytest.approx(metrics["eval_loss"], rel=1e-3)}


def test_evaluation_takes_no_more_rows_than_asked_for(model: Path, tmp_path: Path) -> None:
    """max_eval_samples holds for the answers as for the loss, and a new output directory is made for them."""
    rows = write_rows(tmp_path / "rows.json", 4)
    asked = {"do_train": False, "do_eval": True, "max_eval_samples": 2, "quantization_bit": None}
    metrics = readme_call(model, tmp_path, rows, pre_seq_len=None, val_max_target_length=5, **asked)
    assert {"eval_loss", "eval_bleu-4"} <= metrics.keys()
    answers = tmp_path / "output" / "evaluation" / "generated_predictions.txt"
    assert len(answers.read_text("utf-8").splitlines()) == 2


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"do_predict": True}, ["test_file", "missing"]),
        ({"do_predict": True, "test_file": "absent.json"}, ["absent.json"]),
        ({"do_predict": True, "test_file": "bad.json"}, ["bad.json", "line 1"]),
        ({"do_predict": True, "test_file": "rows.json", "num_beams": 4}, ["num_beams", "4"]),
        ({"do_eval": True, "generation_num_beams": 3}, ["num_beams", "3"]),
        ({"do_eval": True, "validation_file": "bad.json"}, ["bad.json", "line 1"]),
        ({"do_eval": True, "validation_file": None}, ["validation_file"]),
        ({"do_predict": True, "test_file": "rows.json", "history_column": "rounds"}, ["rounds"]),
    ],
)
def test_everything_is_checked_before_the_training(
    model: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    given: dict[str, Any],
    words: list[str],
) -> None:
    """What would fail after the last step is refused before the first one."""
    monkeypatch.chdir(tmp_path)
    rows = write_rows(tmp_path / "rows.json", 4)
    (tmp_path / "bad.json").write_text("{\n")
    with pytest.raises(GlmError, match=containing(*words)):
        readme_call(model, tmp_path, rows, **{"test_file": None, **given})
    assert "step" not in capsys.readouterr().err
    assert not list(tmp_path.glob("output/checkpoint-*"))


def test_no_epochs_train_nothing(model: Path, tmp_path: Path) -> None:
    """The checkpoint holds what would have been trained."""
    rows = write_rows(tmp_path / "rows.json", 4)
    readme_call(model, tmp_path, rows, num_train_epochs=0, max_steps=-1, do_eval=False)
    assert [path.name for path in tmp_path.glob("output/checkpoint-*")] == ["checkpoint-0"]


def test_without_a_prefix_the_model_itself_learns(model: Path, tmp_path: Path) -> None:
    """Full fine-tuning leaves a model that answers by itself, and is what do_predict then asks."""
    rows = write_rows(tmp_path / "rows.json", 4)
    settings = {"pre_seq_len": None, "quantization_bit": None, "learning_rate": 1e-4, "max_steps": 2}
    metrics = readme_call(model, tmp_path, rows, do_predict=True, test_file=str(rows), **settings)
    assert {"train_loss", "predict_bleu-4"} <= metrics.keys()
    with glm_core.load(tmp_path / "output" / "checkpoint-2", device="cpu") as tuned:
        tuned.chat("你好", max_new_tokens=2)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"do_train": False}, "nothing to do: pass do_train=True"),
        ({"model_name_or_path": None}, "model_name_or_path is missing"),
        ({"pre_seq_length": 3}, "pre_seq_length is unknown; did you mean pre_seq_len"),
        ({"train_file": None}, "train_file is missing"),
        ({"do_train": False, "do_eval": True, "validation_file": None}, "validation_file is missing"),
        ({"do_train": False, "do_predict": True}, "test_file is missing"),
    ],
)
def test_wrong_calls_say_what_is_wrong(
    model: Path, tmp_path: Path, changed: dict[str, Any], message: str
) -> None:
    """Each is one error for the user."""
    with pytest.raises(GlmError, match=message):
        readme_call(model, tmp_path, write_rows(tmp_path / "rows.json", 4), **changed)


def test_a_model_that_is_quantised_already_is_taken_as_it_is(model: Path, tmp_path: Path) -> None:
    """The same bits are no second quantisation; other bits are refused."""
    from glm_core.cli import main

    assert main(["quantize", str(model), str(tmp_path / "int4"), "--bits", "4"]) == 0
    rows = write_rows(tmp_path / "rows.json", 4)
    metrics = readme_call(tmp_path / "int4", tmp_path, rows, max_steps=1)
    assert metrics["train_loss"] > 0
    with pytest.raises(CheckpointError, match=containing("4 bits already", "quantization_bit 8")):
        readme_call(tmp_path / "int4", tmp_path, rows, quantization_bit=8)


def test_names_without_effect_are_said(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Once, in one line, before anything is trained."""
    rows = write_rows(tmp_path / "rows.json", 4)
    readme_call(model, tmp_path, rows, max_steps=1, torch_compile=True, group_by_length=True)
    told = [line for line in capsys.readouterr().err.splitlines() if "without effect here" in line]
    assert len(told) == 1
    assert {"group_by_length", "torch_compile"} <= set(told[0].replace(",", "").split())


def test_the_function_is_what_the_entry_point_names() -> None:
    """glm_core.compat finds it through the installed package."""
    with pytest.raises(ConfigError, match="nothing to do"):
        ptuning()
    with pytest.raises(ConfigError, match="nothing to do"):
        ChatGLM6Bpkg.ptuning.ptuning()


def test_the_demo_model_learns_advertisements(tmp_path: Path) -> None:
    """On the bundled demo and the ADGEN sample the loss on held-back rows falls clearly in a minute."""
    adgen = fixtures_or_skip() / "adgen"
    keywords: dict[str, Any] = {
        "validation_file": str(adgen / "dev.json"),
        "max_eval_samples": 16,
        "do_eval": True,
        "predict_with_generate": False,
        "quantization_bit": None,
        "pre_seq_len": 16,
        "learning_rate": 0.3,
        "per_device_train_batch_size": 4,
        "gradient_accumulation_steps": 1,
        "max_source_length": 32,
        "max_target_length": 32,
    }
    short = readme_call("demo", tmp_path / "1", adgen / "train.json", **keywords, max_steps=1)
    longer = readme_call("demo", tmp_path / "2", adgen / "train.json", **keywords, max_steps=40)
    assert longer["eval_loss"] < 0.6 * short["eval_loss"]
