"""The usage that ChatGLM6Bpkg documented, up to and including the CPU, on tiny checkpoints.

Only the import lines and the model path differ from what its users wrote. This machine has no
GPU, so ``.cuda()`` is stood in for by staying where the model is; that it is one clear sentence
otherwise is tested in ``huggingface/test_modeling.py``.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import glm_runtime_torch.plugin
import pytest
import torch
from glm_runtime_torch.huggingface.modeling import ChatGLMForConditionalGeneration
from glm_runtime_torch.quantization import quantize_in_place
from glm_testing import make_host, make_plugin
from tiny_models import tiny_checkpoint

import glm_core.compat
from glm_core import hookimpl
from glm_core.records import FrontendInfo, OpenModel, QuantizationScheme

IMPORTS = """
import glm_runtime_torch
from transformers import AutoTokenizer, AutoModel
import glm_core.compat as ChatGLM6Bpkg
"""

CHAT = """
tokenizer = AutoTokenizer.from_pretrained(PATH, trust_remote_code=True)
model = AutoModel.from_pretrained(PATH, trust_remote_code=True).half().cuda()
model = model.eval()
response, history = model.chat(tokenizer, "你好", history=[])
print(response)
response, history = model.chat(tokenizer, "晚上睡不着应该怎么办", history=history)
print(response)
"""

LAUNCH = """
model_name_or_path = PATH
tokenizer = AutoTokenizer.from_pretrained(model_name_or_path, trust_remote_code=True)
model = AutoModel.from_pretrained(model_name_or_path, trust_remote_code=True).half().cuda()
model = model.eval()
ChatGLM6Bpkg.{call}(model=model, tokenizer=tokenizer)
"""

QUANTIZE = """
model = AutoModel.from_pretrained(PATH, trust_remote_code=True).quantize({bits}).half().cuda()
"""

PREQUANTIZED_GPU = """
model = AutoModel.from_pretrained(PATH_QUANTIZED, trust_remote_code=True).half().cuda()
"""

CPU = """
model = AutoModel.from_pretrained(PATH, trust_remote_code=True).float()
"""

PREQUANTIZED_CPU = """
model = AutoModel.from_pretrained(PATH_QUANTIZED,trust_remote_code=True).float()
"""


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_checkpoint(tmp_path_factory.mktemp("usage") / "model")


@pytest.fixture(autouse=True)
def no_gpu_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ChatGLMForConditionalGeneration, "cuda", lambda self: self)


def run(block: str, **names: Any) -> dict[str, Any]:
    scope: dict[str, Any] = dict(names)
    exec(IMPORTS + block, scope)
    return scope


def prequantized(path: Path, target: Path, bits: int) -> Path:
    """A quantised checkpoint in the published form of the same model."""
    from transformers import AutoModel

    model = AutoModel.from_pretrained(path)
    quantize_in_place(model.network, QuantizationScheme(bits))
    model.config.quantization_bit = bits
    model.save_pretrained(target)
    (target / "ice_text.model").write_bytes((path / "ice_text.model").read_bytes())
    return target


def test_loading_and_chatting(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Two turns with AutoModel, half precision, and a growing history."""
    scope = run(CHAT, PATH=str(path))
    assert [question for question, _ in scope["history"]] == ["你好", "晚上睡不着应该怎么办"]
    assert scope["history"][1][1] == scope["response"]
    assert scope["model"].dtype == torch.float16


@pytest.mark.parametrize("call", ["launch_web_demo", "launch_cli_demo", "launch_server"])
def test_demos_and_server(path: Path, monkeypatch: pytest.MonkeyPatch, call: str) -> None:
    """A model in memory is handed to the frontend of that name, which chats with it."""
    import glm_backend_cpu.plugin

    answers: list[str] = []
    module = ModuleType("asking_frontend")

    def start(open_model: OpenModel, options: Mapping[str, Any]) -> None:
        with open_model() as model:
            answers.append(model.chat("你好", max_new_tokens=8, seed=1)[0])

    module.start = start  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "asking_frontend", module)
    name = {"launch_web_demo": "web", "launch_cli_demo": "cli", "launch_server": "api"}[call]

    @hookimpl
    def describe_frontend() -> FrontendInfo:
        return FrontendInfo(name, "asks once", run="asking_frontend:start")

    host = make_host(
        runtime_torch=glm_runtime_torch.plugin,
        backend_cpu=glm_backend_cpu.plugin,
        asking=make_plugin(describe_frontend=describe_frontend),
    )
    monkeypatch.setattr(glm_core.compat, "get_default_host", lambda: host)
    run(LAUNCH.format(call=call), PATH=str(path))
    assert len(answers) == 1


@pytest.mark.parametrize("bits", [8, 4])
def test_quantising_a_loaded_model(path: Path, bits: int) -> None:
    """quantize(8) and quantize(4) followed by half() and cuda() give a model that answers."""
    scope = run(
        QUANTIZE.format(bits=bits) + "tokenizer = AutoTokenizer.from_pretrained(PATH)", PATH=str(path)
    )
    reply, _ = scope["model"].eval().chat(scope["tokenizer"], "你好", max_length=40)
    assert isinstance(reply, str)


@pytest.mark.parametrize("bits", [8, 4])
@pytest.mark.parametrize("block", [PREQUANTIZED_GPU, PREQUANTIZED_CPU], ids=["half", "float"])
def test_prequantised_checkpoints(path: Path, tmp_path: Path, bits: int, block: str) -> None:
    """Checkpoints that hold int8 or int4 weights load without the float16 original and answer."""
    quantized = prequantized(path, tmp_path / "quantized", bits)
    scope = run(
        block + "tokenizer = AutoTokenizer.from_pretrained(PATH_QUANTIZED)", PATH_QUANTIZED=str(quantized)
    )
    reply, _ = scope["model"].eval().chat(scope["tokenizer"], "你好", max_length=40)
    assert isinstance(reply, str)


def test_cpu_deployment(path: Path) -> None:
    """float() on the CPU gives a float32 model that answers."""
    scope = run(CPU + "tokenizer = AutoTokenizer.from_pretrained(PATH)", PATH=str(path))
    assert scope["model"].dtype == torch.float32
    reply, history = scope["model"].eval().chat(scope["tokenizer"], "你好", history=[], max_length=40)
    assert history == [("你好", reply)]
