"""A transformers model divided over cards that are not there: what goes where is recorded, and it answers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from glm_runtime_torch.huggingface.modeling import ChatGLMForConditionalGeneration
from glm_runtime_torch.huggingface.several_devices import load_on_devices
from tiny_models import tiny_checkpoint
from torch import Tensor, nn
from transformers import AutoTokenizer

from glm_core import ConfigError, DeviceError, OutOfMemoryError

FIRST, SECOND = torch.device("cuda", 0), torch.device("cuda", 1)
GB = 10**9


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_checkpoint(tmp_path_factory.mktemp("divided") / "model", num_layers=4)


class Machine:
    """Two cards: notes which module was put where and which tensor copied; both stay on the processor."""

    def __init__(self) -> None:
        self.put_on: dict[int, torch.device] = {}
        self.hops: list[str] = []

    def put(self, module: nn.Module, device: torch.device) -> None:
        """Note where a module goes."""
        self.put_on[id(module)] = device

    def move(self, tensor: Tensor, device: torch.device) -> Tensor:
        """Note where a tensor goes."""
        self.hops.append(str(device))
        return tensor

    def load(
        self, path: Path, free: tuple[int, int] = (GB, GB), **settings: Any
    ) -> ChatGLMForConditionalGeneration:
        """Load onto the two cards."""
        cards = dict(zip((FIRST, SECOND), free, strict=True))
        return load_on_devices(str(path), cards, put=self.put, move=self.move, **settings)

    def where(self, model: ChatGLMForConditionalGeneration) -> dict[str, torch.device]:
        """Name of each module that was put somewhere."""
        return {
            name: self.put_on[id(module)]
            for name, module in model.named_modules(remove_duplicate=False)
            if id(module) in self.put_on
        }


def greedy(model: ChatGLMForConditionalGeneration, path: Path) -> str:
    """An answer of the model."""
    reply, _ = model.chat(AutoTokenizer.from_pretrained(path), "hello", do_sample=False, max_length=60)
    return str(reply)


def test_model_is_divided_by_bytes_and_chats(path: Path) -> None:
    """Every part is put on a card in half precision, and the answer is that of the undivided model."""
    machine = Machine()
    model = machine.load(path)
    where = machine.where(model)
    assert set(where) == {
        "transformer.word_embeddings",
        *(f"transformer.layers.{index}" for index in range(4)),
        "transformer.final_layernorm",
        "lm_head",
    }
    assert set(where.values()) == {FIRST, SECOND}
    assert model.dtype == torch.float16
    plain = ChatGLMForConditionalGeneration.from_pretrained(path).half().eval()
    assert greedy(model, path) == greedy(plain, path)
    assert {"cuda:0", "cuda:1"} == set(machine.hops)


def test_written_map_is_followed(path: Path) -> None:
    """The original's names, with numbers as it took them."""
    written = {"transformer.word_embeddings": 0, "transformer.final_layernorm": 0, "lm_head": 0}
    written |= {f"transformer.layers.{index}": index % 2 for index in range(4)}
    machine = Machine()
    model = machine.load(path, device_map=written)
    where = machine.where(model)
    assert {name: device.index for name, device in where.items()} == written
    machine.hops.clear()
    with torch.inference_mode():
        ids = torch.tensor([[5, 6, model.config.gmask_token_id, model.config.bos_token_id]])
        output = model(input_ids=ids)
    assert output.logits.shape[:2] == (1, 4)
    assert machine.hops == ["cuda:1"] * 4 + ["cuda:0"] * 4 + ["cuda:1"] * 4 + ["cuda:0"]


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"device_map": {"transformer": 0}}, ConfigError, "leaves out lm_head"),
        ({"device_map": {"": 0, "transformer.layers.9": 1}}, ConfigError, "'transformer.layers.9', which"),
        ({"device_map": {"": 5}}, DeviceError, "on cuda:5, which was not asked for"),
        ({"free": (10, 10)}, OutOfMemoryError, "no division of its 4 blocks fits"),
    ],
)
def test_maps_are_checked_before_anything_is_loaded(
    path: Path,
    monkeypatch: pytest.MonkeyPatch,
    settings: dict[str, Any],
    error: type[Exception],
    message: str,
) -> None:
    """A wrong map and too little memory are found before a weight is read."""
    monkeypatch.setattr(ChatGLMForConditionalGeneration, "from_pretrained", lambda *_, **__: 1 // 0)
    with pytest.raises(error, match=message):
        Machine().load(path, **settings)


def test_one_card_needs_no_hops(path: Path) -> None:
    """On one card the model has no route at all."""
    machine = Machine()
    model = load_on_devices(str(path), {FIRST: GB}, put=machine.put, move=machine.move)
    assert model.network.route is None
    assert set(machine.where(model).values()) == {FIRST}


def test_moving_a_divided_model_to_one_device_ends_its_way(path: Path) -> None:
    """After .to() the model is on one device and hops no more."""
    model = Machine().load(path)
    assert model.network.route is not None
    model.to("cpu")
    assert model.network.route is None
