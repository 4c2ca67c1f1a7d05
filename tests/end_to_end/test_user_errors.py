"""A careless user's mistakes, through the real command: one sentence, exit code 2, no traceback."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from child_process import run
from goldens import DATA
from tiny_models import tiny_checkpoint


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_checkpoint(tmp_path_factory.mktemp("errors") / "model")


def glm(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return run(sys.executable, "-m", "glm_core", *arguments, environment={**os.environ, **environment})


def complaint(done: subprocess.CompletedProcess[str]) -> str:
    """The one sentence of a failed command; checks everything that all of them share."""
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""
    lines = [line for line in done.stderr.splitlines() if line.startswith("glm: ")]
    assert lines
    assert lines[-1] == done.stderr.splitlines()[-1]
    return lines[-1]


def copy(directory: Path, target: Path) -> Path:
    shutil.copytree(directory, target)
    return target


def test_unknown_model() -> None:
    """An unknown name lists the known ones and suggests the nearest."""
    message = complaint(glm("chat", "hi", "--model", "chatglm-6"))
    assert "Did you mean 'chatglm-6b'?" in message


def test_directory_without_config(tmp_path: Path) -> None:
    """A directory without config.json says so."""
    assert "it holds no config.json" in complaint(glm("chat", "hi", "--model", str(tmp_path)))


def test_lfs_pointer(directory: Path, tmp_path: Path) -> None:
    """A pointer in place of the weights is recognised."""
    broken = copy(directory, tmp_path / "x")
    (broken / "model.safetensors").write_text(
        "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n"
    )
    assert "is a Git LFS pointer" in complaint(glm("chat", "hi", "--model", str(broken)))


def test_truncated_shard(tmp_path: Path, directory: Path) -> None:
    """A shard that was cut off is named."""
    broken = with_vocabulary(
        copy(DATA / "chatglm-6b" / "ckpt" / "fp16-bin-sharded", tmp_path / "x"), directory
    )
    shard = broken / "pytorch_model-00002-of-00002.bin"
    shard.write_bytes(shard.read_bytes()[:1000])
    assert "00002-of-00002.bin (1,000 bytes) is damaged or cut off" in complaint(
        glm("chat", "hi", "--model", str(broken))
    )


def test_missing_shard(tmp_path: Path, directory: Path) -> None:
    """A shard that is not there is named."""
    broken = with_vocabulary(
        copy(DATA / "chatglm-6b" / "ckpt" / "fp16-bin-sharded", tmp_path / "x"), directory
    )
    (broken / "pytorch_model-00001-of-00002.bin").unlink()
    assert "1 of 2 weight files are missing" in complaint(glm("chat", "hi", "--model", str(broken)))


def test_wrong_tensor_shape(directory: Path, tmp_path: Path) -> None:
    """Weights of another size than the configuration's are refused."""
    broken = copy(directory, tmp_path / "x")
    config = json.loads((broken / "config.json").read_text("utf-8"))
    (broken / "config.json").write_text(json.dumps({**config, "inner_hidden_size": 64}), "utf-8")
    assert "config.json asks for [64, 32]" in complaint(glm("chat", "hi", "--model", str(broken)))


def test_wrong_vocabulary(directory: Path, tmp_path: Path) -> None:
    """A vocabulary of another model is refused."""
    broken = copy(directory, tmp_path / "x")
    config = json.loads((broken / "config.json").read_text("utf-8"))
    (broken / "config.json").write_text(json.dumps({**config, "eos_token_id": 9}), "utf-8")
    assert "they are of different models" in complaint(glm("chat", "hi", "--model", str(broken)))


class Hostile:
    """Pickles to a program call."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, ("touch /tmp/glm-hostile-pickle-ran",)


def test_pickle_with_code(directory: Path, tmp_path: Path) -> None:
    """A weight file that would run a program is refused, and the program does not run."""
    broken = copy(directory, tmp_path / "x")
    (broken / "model.safetensors").unlink()
    torch.save({"x": Hostile()}, broken / "pytorch_model.bin")
    assert "Python code would run if it were loaded" in complaint(glm("chat", "hi", "--model", str(broken)))
    assert not Path("/tmp/glm-hostile-pickle-ran").exists()


WITHOUT_GPU_BACKENDS = {"GLM_DISABLE_PLUGINS": "backend_cuda,backend_mps"}


@pytest.mark.parametrize(
    ("device", "part"),
    [
        ("gpu", "device 'gpu' is unknown; choose one of: auto, cpu"),
        ("cuda", "pip install glm-backend-cuda"),
        ("cuda:0,1", "pip install glm-backend-cuda"),
        ("mps", "pip install glm-backend-mps"),
        ("cpu:3", "device 'cpu:3' does not exist; there are: cpu"),
    ],
)
def test_device_that_is_not_there(directory: Path, device: str, part: str) -> None:
    """An unknown device, devices whose backend is not installed, and an index too many."""
    asked = ("chat", "hi", "--model", str(directory), "--device", device)
    assert part in complaint(glm(*asked, **WITHOUT_GPU_BACKENDS))


@pytest.mark.parametrize(
    ("device", "parts"),
    [
        ("cuda", ("device 'cuda' is not available: ", "--device cpu")),
        ("cuda:0,1", ("device 'cuda:0,1' is not available: ", "--device cpu")),
        ("mps", ("device 'mps' is not available: ", "--device cpu")),
    ],
)
def test_hardware_that_is_not_there(directory: Path, device: str, parts: tuple[str, str]) -> None:
    """With the backend installed and no such GPU, one sentence says what is missing and what to choose."""
    message = complaint(
        glm("chat", "hi", "--model", str(directory), "--device", device, CUDA_VISIBLE_DEVICES="")
    )
    if device == "mps" and sys.platform == "darwin":
        pytest.skip("this is a Mac")
    assert all(part in message for part in parts)


def test_unwritable_cache(tmp_path: Path) -> None:
    """A cache that cannot be written is one sentence, whether the network would have worked or not."""
    blocker = tmp_path / "file"
    blocker.write_text("")
    cache = str(blocker / "cache")
    message = complaint(
        glm("chat", "hi", "--model", "THUDM/chatglm-6b", HF_HOME=cache, HF_ENDPOINT="http://127.0.0.1:9")
    )
    assert "could not be" in message


def test_no_network(tmp_path: Path) -> None:
    """A hub that cannot be reached says what to try instead."""
    message = complaint(
        glm(
            "chat",
            "hi",
            "--model",
            "THUDM/chatglm-6b",
            HF_HOME=str(tmp_path),
            HF_ENDPOINT="http://127.0.0.1:9",
        )
    )
    assert "Check the network" in message


def test_offline_with_an_empty_cache(tmp_path: Path) -> None:
    """--offline never tries the network and says that the cache has nothing."""
    message = complaint(glm("chat", "hi", "--model", "THUDM/chatglm-6b", "--offline", HF_HOME=str(tmp_path)))
    assert "not in the cache" in message
    assert "offline mode is on" in message


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (("--dtype", "float8"), "dtype 'float8' is unknown; expected one of auto, float32"),
        (("--quantize", "3"), "quantize '3' is unknown; expected none, int8, int4, or int4-g128"),
        (("--quantize", "int3"), "cannot quantise to int3; it offers: int8, int4, int4-g128"),
        (("--adapter", "x=/nowhere"), "adapter 'x': /nowhere is no directory"),
        (("--temperature", "-1"), "temperature must be 0 or more, got -1.0"),
    ],
)
def test_bad_option_values(directory: Path, arguments: tuple[str, ...], part: str) -> None:
    """Values outside what an option takes name the value and the choices."""
    assert part in complaint(glm("chat", "hi", "--model", str(directory), *arguments))


def with_vocabulary(target: Path, source: Path) -> Path:
    """Give a golden checkpoint the tiny model's vocabulary, with the configuration's end token."""
    shutil.copyfile(source / "ice_text.model", target / "ice_text.model")
    ours = json.loads((source / "config.json").read_text("utf-8"))
    config = json.loads((target / "config.json").read_text("utf-8"))
    config |= {
        name: ours[name] for name in ("bos_token_id", "eos_token_id", "gmask_token_id", "mask_token_id")
    }
    (target / "config.json").write_text(json.dumps(config), "utf-8")
    return target
