"""A quantised copy on the disk: what is in it, how it resumes, and what is refused."""

from __future__ import annotations

import errno
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import filelock
import glm_runtime_torch  # noqa: F401 - registers the auto classes
import glm_runtime_torch.quantize_job.destination as destination
import glm_runtime_torch.quantize_job.job as job_module
import glm_runtime_torch.quantize_job.partial as partial
import pytest
import torch
from glm_hub.checksums import find_checksums
from glm_hub.model_files import CHECKSUMS
from glm_hub.verify import verify_path
from glm_runtime_torch.checkpoints.reader import Checkpoint
from glm_runtime_torch.checkpoints.writer import SafetensorsWriter
from glm_runtime_torch.families.registry import CHATGLM
from glm_runtime_torch.loading import open_source
from glm_runtime_torch.quantization import dequantize_rows, quantize_rows
from glm_runtime_torch.quantize_job.job import quantize_checkpoint
from goldens import DATA
from key_words import containing, missing_words
from safetensors.torch import load_file, save_file
from streams import close_stream
from tiny_models import open_with_prompt, tiny_checkpoint
from transformers import AutoModel

from glm_core import CheckpointError, ConfigError
from glm_core.records import ModelSource, QuantizationScheme, QuantizeJob, QuantizeProgress

V1 = DATA / "chatglm-6b" / "ckpt"
CPU = torch.device("cpu")
TEXT = ["你好 hello world", "how do I quantise a model", "晚上睡不着应该怎么办 hello", "hello how do I"] * 4


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model with a vocabulary, and files that are not copied."""
    path = tiny_checkpoint(tmp_path_factory.mktemp("source") / "tiny", num_layers=3)
    (path / "generation_config.json").write_text('{"top_k": 7}')
    (path / "MODEL_LICENSE").write_text("some licence")
    (path / "modeling_chatglm.py").write_text("raise SystemExit")
    return path


@pytest.fixture
def small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    """Files of one block each."""
    monkeypatch.setattr(job_module, "MAX_SHARD_BYTES", 9_000)


def job(destination: Path, bits: int = 4, group_size: int = 0, **settings: Any) -> QuantizeJob:
    return QuantizeJob(destination, QuantizationScheme(bits, group_size), **settings)


def start(source: Path, wanted: QuantizeJob) -> Iterator[QuantizeProgress]:
    reports = quantize_checkpoint(ModelSource("tiny", source), wanted)
    assert reports is not None
    return reports


def finish(source: Path, wanted: QuantizeJob) -> list[str]:
    """Run to the end; the messages for people."""
    reports = list(start(source, wanted))
    assert [report.finished for report in reports].index(True) == len(reports) - 1
    assert [report.done for report in reports] == sorted(report.done for report in reports)
    assert reports[-1].done == reports[-1].total > 0
    return [report.message for report in reports if report.message]


def tensors(directory: Path) -> dict[str, torch.Tensor]:
    checkpoint = Checkpoint(directory)
    return {
        name: checkpoint.read(name, dtype=checkpoint.get_facts(name).dtype, device=CPU) for name in checkpoint
    }


@pytest.mark.parametrize("form", ["fp16-bin", "fp16-bin-sharded", "fp16-safetensors"])
@pytest.mark.parametrize(
    ("reference", "bits", "embeddings"), [("int8", 8, False), ("int4", 4, False), ("int4-qe", 4, True)]
)
def test_rows_are_stored_byte_for_byte_as_the_original_stores_them(
    form: str, reference: str, bits: int, embeddings: bool, tmp_path: Path
) -> None:
    """Names, dtypes, shapes and bytes are those of the original's own checkpoint, from any file form.

    Of a float table the copy under the head's name is left out: it is tied when it is read.
    """
    finish(V1 / form, job(tmp_path / "out", bits, embeddings=embeddings))
    original, ours = tensors(DATA / "quantization" / f"ckpt-{reference}"), tensors(tmp_path / "out")
    assert original.keys() - ours.keys() == (set() if embeddings else {"lm_head.weight"})
    assert ours.keys() <= original.keys()
    compared = 0
    for name, value in ours.items():
        if value.dtype == torch.float32 and form == "fp16-bin-sharded":
            value = value.half()  # this form has its norms in float32, which is kept
        assert value.dtype == original[name].dtype, name
        assert torch.equal(value, original[name]), name
        compared += 1
    assert compared >= 52
    config = json.loads((tmp_path / "out" / "config.json").read_text("utf-8"))
    assert (config["quantization_bit"], config["quantization_embeddings"]) == (bits, embeddings)
    assert "quantization_group_size" not in config


@pytest.mark.parametrize("group_size", [0, 32])
@pytest.mark.parametrize("embeddings", [False, True])
def test_the_result_loads_without_the_original_and_computes_the_same(
    group_size: int, embeddings: bool, tmp_path: Path, directory: Path
) -> None:
    """After the source is gone the copy gives the logits of the model quantised while it is loaded."""
    source = tmp_path / "source"
    shutil.copytree(directory, source)
    scheme = QuantizationScheme(4, group_size)
    finish(source, job(tmp_path / "out", 4, group_size, embeddings=embeddings))
    shutil.rmtree(source)
    copy = open_with_prompt(tmp_path / "out", [1])
    network: Any = copy.network
    loaded: Any = open_source(ModelSource("tiny", directory), "float32")
    loaded.quantize(scheme, embeddings=scheme if embeddings else None)
    loaded.materialize(CPU)
    prompt = loaded.tokenizer.encode_completion("hello world")
    layout = loaded.network.find_layout(prompt)
    positions = layout.compute_position_ids(0, len(prompt)).unsqueeze(0)
    mask = torch.ones(1, 1, len(prompt), len(prompt), dtype=torch.bool)
    with torch.inference_mode():
        expected = loaded.network(torch.tensor([prompt]), positions, mask)
        torch.testing.assert_close(network(torch.tensor([prompt]), positions, mask), expected)
    kept = {path.name for path in (tmp_path / "out").iterdir()}
    assert kept == {
        *("config.json", "model.safetensors", "ice_text.model", "generation_config.json", "MODEL_LICENSE"),
        CHECKSUMS,
    }
    assert copy.info.sampling.top_k == 7
    copy.close()


@pytest.mark.parametrize("group_size", [0, 32])
@pytest.mark.parametrize("embeddings", [False, True])
def test_transformers_loads_the_result_too(
    group_size: int, embeddings: bool, tmp_path: Path, directory: Path
) -> None:
    """AutoModel gives the engine's network's logits for a copy with any scales and tables."""
    finish(directory, job(tmp_path / "out", 4, group_size, embeddings=embeddings))
    theirs = AutoModel.from_pretrained(tmp_path / "out").float().eval()
    ours = open_with_prompt(tmp_path / "out", [1])
    tokenizer = CHATGLM.read_tokenizer(directory)
    prompt = tokenizer.encode_completion("hello world")
    positions = ours.network.find_layout(prompt).compute_position_ids(0, len(prompt)).unsqueeze(0)
    ids, mask = torch.tensor([prompt]), torch.ones(len(prompt), len(prompt), dtype=torch.bool).tril()
    mask[:, :-1] = True
    with torch.inference_mode():
        expected = ours.network(ids, positions, mask[None, None])
        torch.testing.assert_close(theirs(ids).logits, expected)
    ours.close()


def test_groups_are_named_in_the_configuration(tmp_path: Path, directory: Path) -> None:
    """Group-wise scales have a column a group, and config.json says how large groups are."""
    finish(directory, job(tmp_path / "out", 4, 32))
    ours, original = tensors(tmp_path / "out"), tensors(directory)
    name = "transformer.layers.1.mlp.dense_4h_to_h"
    stored, scale = quantize_rows(original[f"{name}.weight"], 4, 32)
    assert torch.equal(ours[f"{name}.weight"], stored)
    assert torch.equal(ours[f"{name}.weight_scale"], scale)
    assert scale.shape == (32, 128 // 32)
    assert json.loads((tmp_path / "out" / "config.json").read_text())["quantization_group_size"] == 32


def test_large_results_are_split_between_blocks(tmp_path: Path, directory: Path, small_shards: None) -> None:
    """Files stay below the limit, no block is cut, and the index names every tensor."""
    finish(directory, job(tmp_path / "out"))
    index = json.loads((tmp_path / "out" / "model.safetensors.index.json").read_text("utf-8"))
    files = sorted(set(index["weight_map"].values()))
    assert len(files) == 4
    assert files[0] == "model-00001-of-00004.safetensors"
    sizes = {name: (tmp_path / "out" / name).stat().st_size for name in files}
    assert all(size < 40_000 for size in sizes.values())
    for layer in range(3):
        prefix = f"transformer.layers.{layer}."
        assert len({file for name, file in index["weight_map"].items() if name.startswith(prefix)}) == 1
    whole = tensors(tmp_path / "out")
    assert index["weight_map"].keys() == whole.keys()
    assert index["metadata"]["total_size"] == sum(value.numel() * value.itemsize for value in whole.values())


@pytest.mark.parametrize("method", ["rtn", "gptq"])
def test_an_interrupted_job_goes_on_and_gives_the_same_bytes(
    method: Any, tmp_path: Path, directory: Path, small_shards: None
) -> None:
    """Stopped in the third file: nothing stands at the destination, what is finished is not rewritten."""
    settings = {"method": method, "calibration": calibration(tmp_path) if method == "gptq" else None}
    finish(directory, job(tmp_path / "whole", **settings))
    reports = start(directory, job(tmp_path / "out", **settings))
    for report in reports:
        if report.tensor.startswith("transformer.layers.1."):
            break
    close_stream(reports)
    begun = tmp_path / "out.partial"
    assert not (tmp_path / "out").exists()
    finished = {path.name: path.stat().st_mtime_ns for path in begun.glob("*.safetensors")}
    assert len(finished) == 2
    messages = finish(directory, job(tmp_path / "out", **settings))
    assert not missing_words(messages[0], str(begun), "2 files")
    assert not begun.exists()
    kept = {name: (tmp_path / "out" / name).stat().st_mtime_ns for name in finished}
    assert kept == finished
    contents = [
        {path.name: path.read_bytes() for path in (tmp_path / name).iterdir()} for name in ("whole", "out")
    ]
    assert contents[0] == contents[1]


def interrupt(directory: Path, wanted: QuantizeJob) -> Path:
    """Stop a job after its second file; the directory it leaves."""
    reports = start(directory, wanted)
    next(report for report in reports if report.tensor.startswith("transformer.layers.1."))
    close_stream(reports)
    return wanted.destination.with_name(f"{wanted.destination.name}.partial")


def test_other_settings_begin_anew(tmp_path: Path, directory: Path, small_shards: None) -> None:
    """What was made with other settings is not mixed in, and a notice says so."""
    begun = interrupt(directory, job(tmp_path / "out", 8))
    assert finish(directory, job(tmp_path / "out", 4)) == [
        f"{begun} was begun with other settings or another source; beginning anew"
    ]
    assert open_with_prompt(tmp_path / "out", [1]).info.num_parameters > 0


def test_a_changed_source_begins_anew(tmp_path: Path, directory: Path, small_shards: None) -> None:
    """A weight file that was replaced in between is noticed by its size and time."""
    source = tmp_path / "source"
    shutil.copytree(directory, source)
    interrupt(source, job(tmp_path / "out"))
    state = load_file(source / "model.safetensors")
    save_file({name: value * 2 for name, value in state.items()}, source / "model.safetensors")
    assert "another source; beginning anew" in finish(source, job(tmp_path / "out"))[0]
    norm = tensors(tmp_path / "out")["transformer.final_layernorm.weight"]
    assert torch.equal(norm, torch.full_like(norm, 2))


def test_a_damaged_finished_file_is_written_again(
    tmp_path: Path, directory: Path, small_shards: None
) -> None:
    """A finished file is compared with its checksum before it is kept."""
    begun = interrupt(directory, job(tmp_path / "out"))
    first = sorted(begun.glob("*.safetensors"))[0]
    content = bytearray(first.read_bytes())
    content[-1] ^= 1
    first.write_bytes(content)
    messages = finish(directory, job(tmp_path / "out"))
    assert not missing_words(messages[0], first.name, str(begun), "again")
    finish(directory, job(tmp_path / "whole"))
    assert (tmp_path / "out" / first.name).read_bytes() == (tmp_path / "whole" / first.name).read_bytes()


def test_a_foreign_directory_is_left_alone(tmp_path: Path, directory: Path) -> None:
    """A folder that happens to have the temporary name is refused, not emptied."""
    (tmp_path / "out.partial").mkdir()
    (tmp_path / "out.partial" / "thesis.txt").write_text("mine")
    with pytest.raises(ConfigError, match=containing("thesis.txt", "unfinished")):
        finish(directory, job(tmp_path / "out"))
    assert (tmp_path / "out.partial" / "thesis.txt").read_text() == "mine"


def test_two_jobs_do_not_write_the_same_result(tmp_path: Path, directory: Path) -> None:
    """A second process is told that a first one is at work."""
    (tmp_path / "out.partial").mkdir()
    with filelock.FileLock(tmp_path / "out.partial" / partial.LOCK_FILE, is_singleton=False):
        with pytest.raises(ConfigError, match=containing("another process", "out.partial")):
            finish(directory, job(tmp_path / "out"))


def test_a_full_disk_keeps_what_is_finished_and_can_go_on(
    tmp_path: Path, directory: Path, small_shards: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No space halfway: one sentence, nothing at the destination, and the same command completes it."""
    real = SafetensorsWriter.write

    def full(self: SafetensorsWriter, name: str, pieces: Any) -> None:
        if name.startswith("transformer.layers.2."):
            raise OSError(errno.ENOSPC, "No space left on device")
        real(self, name, pieces)

    monkeypatch.setattr(SafetensorsWriter, "write", full)
    with pytest.raises(
        CheckpointError,
        match=containing("disk is full", "out.partial"),
    ):
        finish(directory, job(tmp_path / "out"))
    assert not (tmp_path / "out").exists()
    assert not list((tmp_path / "out.partial").glob("*.tmp"))
    monkeypatch.undo()
    monkeypatch.setattr(job_module, "MAX_SHARD_BYTES", 9_000)
    assert finish(directory, job(tmp_path / "out"))[0].endswith("3 files are finished")


def test_every_file_of_the_copy_can_be_verified(tmp_path: Path, directory: Path, small_shards: None) -> None:
    """Size and hash of each shard, the index and the companions are listed; a changed bit is found."""
    interrupt(directory, job(tmp_path / "out"))
    finish(directory, job(tmp_path / "out"))
    found = find_checksums(tmp_path / "out")
    assert found is not None
    there = {path.name for path in (tmp_path / "out").iterdir()}
    assert {*found.files} == there - {CHECKSUMS}
    assert {check.verdict for check in verify_path(tmp_path / "out")} == {"ok"}
    shard = sorted((tmp_path / "out").glob("*.safetensors"))[1]
    content = bytearray(shard.read_bytes())
    content[-1] ^= 1
    shard.write_bytes(content)
    damaged = [check.name for check in verify_path(tmp_path / "out") if check.verdict == "damaged"]
    assert damaged == [shard.name]


def test_a_copy_whose_weights_were_cut_off_is_not_opened(tmp_path: Path, directory: Path) -> None:
    """Loading compares sizes always, and names the file with both."""
    finish(directory, job(tmp_path / "out"))
    weights = tmp_path / "out" / "model.safetensors"
    size = weights.stat().st_size
    weights.write_bytes(weights.read_bytes() + b"x")
    with pytest.raises(CheckpointError, match=rf"{size + 1:,} bytes(?s:.*){size:,}"):
        open_source(ModelSource("tiny", tmp_path / "out"), "float32")


def test_too_little_space_is_found_before_anything_is_written(
    tmp_path: Path, directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The result's size is known beforehand and compared with what is free."""
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=1000))
    with pytest.raises(ConfigError, match=r"needs 0\.00 GB.*room for 0\.00 GB"):
        start(directory, job(tmp_path / "out"))
    assert list(tmp_path.iterdir()) == []


def test_what_is_written_already_counts_as_space(
    tmp_path: Path, directory: Path, small_shards: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A job that goes on needs room for the rest only."""
    interrupt(directory, job(tmp_path / "out"))
    size = sum(path.stat().st_size for path in directory.iterdir())
    monkeypatch.setattr(job_module, "SMALL_FILES_BYTES", 0)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=0))
    with pytest.raises(ConfigError, match="room for"):
        start(directory, job(tmp_path / "out"))
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=size))
    needed = 2 * size  # more than is free alone, less than with what stands there
    destination.check_disk(tmp_path / "out", size + 10_000)
    with pytest.raises(ConfigError, match="room for"):
        destination.check_disk(tmp_path / "out", needed)


@pytest.mark.skipif("os.getuid() == 0", reason="root may write everywhere")
def test_a_place_that_may_not_be_written_is_named(tmp_path: Path, directory: Path) -> None:
    """A directory without permission gives one sentence."""
    tmp_path.chmod(0o500)
    with pytest.raises(ConfigError, match="cannot be written: Permission denied"):
        finish(directory, job(tmp_path / "out"))


def test_a_quantised_source_is_refused(tmp_path: Path) -> None:
    """Integers are not quantised again."""
    source = DATA / "quantization" / "ckpt-int8"
    with pytest.raises(CheckpointError, match=containing("quantised", "quantization_bit 8", "config.json")):
        start(source, job(tmp_path / "out"))


def test_a_prefix_in_the_source_is_kept(tmp_path: Path, directory: Path) -> None:
    """Tensors that are no part of the network, such as a P-Tuning prefix, are copied as they are."""
    shutil.copytree(directory, tmp_path / "tuned")
    state = load_file(tmp_path / "tuned" / "model.safetensors")
    prefix = torch.randn(4, 3 * 2 * 32)
    state["transformer.prefix_encoder.embedding.weight"] = prefix
    save_file(state, tmp_path / "tuned" / "model.safetensors")
    finish(tmp_path / "tuned", job(tmp_path / "out"))
    assert torch.equal(tensors(tmp_path / "out")["transformer.prefix_encoder.embedding.weight"], prefix)


def test_other_models_are_declined(tmp_path: Path) -> None:
    """A source without files or of another family is left to other runtimes."""
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    assert quantize_checkpoint(ModelSource("llama", tmp_path), job(tmp_path / "out")) is None
    assert quantize_checkpoint(ModelSource("name only"), job(tmp_path / "out")) is None


def calibration(folder: Path, lines: list[str] | None = None) -> Path:
    path = folder / "calibration.txt"
    path.write_text("\n".join(TEXT if lines is None else lines), "utf-8")
    return path


@pytest.mark.parametrize(("bits", "group_size"), [(4, 0), (4, 32), (8, 0)])
@pytest.mark.parametrize("embeddings", [False, True])
def test_gptq_is_closer_to_the_original_on_its_text(
    bits: int, group_size: int, embeddings: bool, tmp_path: Path, directory: Path
) -> None:
    """The last block's output on the calibration text errs less than with rounding, in the same format."""
    shape = {"embeddings": embeddings}
    finish(directory, job(tmp_path / "rtn", bits, group_size, **shape))
    text = calibration(tmp_path)
    finish(directory, job(tmp_path / "gptq", bits, group_size, method="gptq", calibration=text, **shape))
    plain, better = tensors(tmp_path / "rtn"), tensors(tmp_path / "gptq")
    facts = [{name: (value.dtype, value.shape) for name, value in one.items()} for one in (plain, better)]
    assert facts[0] == facts[1]
    changed = {name for name, value in better.items() if not torch.equal(value, plain[name])}
    assert {name.rpartition(".")[2] for name in changed} <= {"weight", "weight_scale"}
    assert all(".layers." in name and "layernorm" not in name for name in changed)
    assert len({name.rpartition(".")[0] for name in changed}) == 3 * 4
    errors = [hidden_error(directory, tmp_path / name) for name in ("rtn", "gptq")]
    assert errors[1] < 0.95 * errors[0]


def hidden_error(original: Path, copy: Path) -> float:
    """Squared distance of the final hidden states on the calibration text."""
    found = []
    for path in (original, copy):
        model: Any = open_with_prompt(path, [1])
        states = []
        tokenizer = CHATGLM.read_tokenizer(original)
        for line in dict.fromkeys(TEXT):
            prompt = tokenizer.encode_completion(line[: len(line) // 2])
            ids = [*prompt, *tokenizer.encode(line[len(line) // 2 :])]
            positions = model.network.find_layout(prompt).compute_position_ids(0, len(ids)).unsqueeze(0)
            context = torch.arange(len(ids)) < len(prompt) - 1
            mask = context | (torch.arange(len(ids)) <= torch.arange(len(ids)).unsqueeze(1))
            with torch.inference_mode():
                h = model.network.compute_hidden_states(torch.tensor([ids]), positions, mask[None, None])
            states.append(h.flatten())
        found.append(torch.cat(states))
        model.close()
    return (found[0] - found[1]).square().sum().item()


def test_weights_that_gptq_cannot_use_are_named(tmp_path: Path, directory: Path) -> None:
    """NaN in a weight file is found where it shows, in one sentence."""
    shutil.copytree(directory, tmp_path / "nan")
    state = load_file(tmp_path / "nan" / "model.safetensors")
    state["transformer.layers.1.input_layernorm.weight"][3] = torch.nan
    save_file(state, tmp_path / "nan" / "model.safetensors")
    wanted = job(tmp_path / "out", method="gptq", calibration=calibration(tmp_path))
    with pytest.raises(
        CheckpointError, match=containing("layers.1.attention.query_key_value.weight", "gptq")
    ):
        finish(tmp_path / "nan", wanted)


def test_dequantised_values_are_those_of_the_float_model_within_half_a_step(
    tmp_path: Path, directory: Path
) -> None:
    """Rounding to nearest errs by half a step at most, everywhere."""
    finish(directory, job(tmp_path / "out", 4, 32))
    original, ours = tensors(directory), tensors(tmp_path / "out")
    for name in [name for name in ours if name.endswith("weight_scale")]:
        weight, scale = name.removesuffix("_scale"), ours[name]
        restored = dequantize_rows(ours[weight], scale, 4, torch.float32, 32)
        step = scale.float().repeat_interleave(32, dim=1)
        # float16 scales are rounded themselves, so the largest weight of a group may lie a bit outside
        assert ((restored - original[weight].float()).abs() <= step / 2 * 1.01 + 1e-7).all()
