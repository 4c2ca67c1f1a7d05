"""A network divided over devices really runs: hidden states hop where the map says, and tokens stay the same.

This machine may have one device, so the hops are recorded instead of copied; the KV cache and the weights
of every block stand where the map puts them as far as the machine has such places.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from glm_runtime_torch.loading import open_source
from glm_runtime_torch.model.device_map import find_parts, resolve_device_map, split
from glm_runtime_torch.model.torch_model import TorchModel
from glm_runtime_torch.network.kv_cache import KVCache
from glm_runtime_torch.network.rotary import Rotary
from glm_runtime_torch.network.route import DeviceRoute
from tiny_models import tiny_checkpoint, tiny_checkpoint2
from tiny_native import native_checkpoint
from torch import Tensor

from glm_core import ChatRequest, Message, Sampling
from glm_core.records import ModelSource

CPU = torch.device("cpu")
LAYERS = 4


class RecordingMove:
    """Leaves tensors where they are and notes where they should have gone."""

    def __init__(self) -> None:
        self.hops: list[tuple[tuple[int, ...], str]] = []

    def __call__(self, tensor: Tensor, device: torch.device) -> Tensor:
        """Note the hop."""
        self.hops.append((tuple(tensor.shape), str(device)))
        return tensor

    def states(self, hidden_size: int) -> list[str]:
        """Where hidden states went, in order."""
        return [device for shape, device in self.hops if shape[-1] == hidden_size]


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_checkpoint(tmp_path_factory.mktemp("devices") / "model", num_layers=LAYERS)


@pytest.mark.parametrize("family", ["chatglm3-6b", "glm4", "glm4_moe"])
def test_later_families_are_divided_too(family: str, tmp_path: Path) -> None:
    """Automatic division names every unit, and a divided network gives the tokens of one device."""
    folder = tmp_path / family
    made = tiny_checkpoint2(folder) if family == "chatglm3-6b" else native_checkpoint(folder, family)
    opened = open_source(ModelSource("tiny", made), "float32")
    assert opened is not None
    opened.materialize(CPU)
    opened.start(CPU, slots=2)
    alone = tokens(opened, do_sample=False)
    parts = find_parts(opened.network)
    assert len(parts.blocks) == 3
    cards = {torch.device("cuda", index): 10**9 for index in range(2)}
    move = RecordingMove()
    opened.network.route = split(parts, cards, 10**8).make_route(parts, move=move)
    assert tokens(opened, do_sample=False) == alone
    assert {device for _, device in move.hops} >= {"cuda:1"}
    opened.close()


@pytest.fixture
def model(directory: Path) -> Iterator[TorchModel]:
    opened = open_source(ModelSource("tiny", directory), "float32")
    assert opened is not None
    opened.materialize(CPU)
    opened.start(CPU, slots=2)
    yield opened
    opened.close()


def tokens(model: TorchModel, **sampling: Any) -> list[int]:
    """Of one answer to a question of more than one prefill chunk."""
    question = "hello world how do I quantise a model " * 10
    request = ChatRequest((Message("user", question),), Sampling(max_new_tokens=12, **sampling), seed=3)
    return [token for delta in model.stream(request) for token in delta.token_ids]


def divided(model: TorchModel, written: dict[str, Any]) -> RecordingMove:
    """Send the network's hidden states along a map of two cards that are not there."""
    parts = find_parts(model.network)
    cards = [torch.device("cuda", index) for index in range(3)]
    move = RecordingMove()
    model.network.route = resolve_device_map(parts, written, cards).make_route(parts, move=move)
    return move


@pytest.mark.parametrize("sampling", [{"do_sample": False}, {"temperature": 1.5, "top_k": 0, "top_p": 0.9}])
def test_divided_network_gives_the_same_tokens(model: TorchModel, sampling: dict[str, Any]) -> None:
    """Prefill in chunks and decoding over two cards give the tokens of one."""
    alone = tokens(model, **sampling)
    move = divided(model, {"": 0, "transformer.layers.2": 1, "transformer.layers.3": 1})
    assert tokens(model, **sampling) == alone
    assert len(alone) == 12
    prefill_and_steps = 1 + 11
    assert move.states(32) == ["cuda:1", "cuda:0"] * prefill_and_steps


def test_hops_happen_where_the_map_says(model: TorchModel) -> None:
    """Hidden states, angles and mask are copied before the first block of each card, and to norm and head."""
    where = {"": 1, "transformer.layers": 0, "transformer.layers.2": 2, "transformer.layers.3": 2}
    move = divided(model, where)
    ids = torch.tensor([[5, 6, 7, 8]])
    positions, mask = torch.zeros(1, 2, 4, dtype=torch.int64), torch.ones(1, 1, 4, 4, dtype=torch.bool)
    with torch.inference_mode():
        model.network(ids, positions, mask)
    assert move.states(32) == ["cuda:0", "cuda:2", "cuda:1"]
    masks = [device for shape, device in move.hops if shape == (1, 1, 4, 4)]
    assert masks == ["cuda:0", "cuda:2"]
    assert len(move.hops) == 2 * 4 + 1  # states, cosine, sine and mask twice, states to the norm


def test_one_device_has_no_route(model: TorchModel) -> None:
    """A map that names one device makes no hop at all."""
    parts = find_parts(model.network)
    assert resolve_device_map(parts, {"": 0}, [torch.device("cuda", 0)]).make_route(parts) is None
    assert model.network.route is None


def test_head_on_another_card_than_the_norm() -> None:
    """Norm and head may stand apart; each gets the hidden states."""
    move = RecordingMove()
    first, second, third = (torch.device("cuda", index) for index in range(3))
    route = DeviceRoute(first, [first, second], third, second, move=move)
    h, rotary = torch.zeros(1, 1, 8), Rotary(torch.ones(1), torch.ones(1))
    route.to_block(0, h, rotary)
    assert move.hops == []
    route.to_block(1, h, rotary)
    route.to_norm(h)
    route.to_head(h)
    assert move.states(8) == ["cuda:1", "cuda:2", "cuda:1"]
    assert route.devices == (first, second, third)


def test_placed_model_names_all_its_devices(directory: Path) -> None:
    """Weights and KV cache of each block stand where the map puts them, and the model says where it is."""
    opened = open_source(ModelSource("tiny", directory), "float32")
    assert opened is not None
    meta = torch.device("meta")
    places = resolve_device_map(opened.parts, {"": "cpu", "transformer.layers.1": meta}, [CPU, meta])
    opened.materialize(places)
    opened.start(places, slots=1)
    weights = {name: value.device.type for name, value in opened.network.named_parameters()}
    assert {device for name, device in weights.items() if ".layers.1." in name} == {"meta"}
    assert {device for name, device in weights.items() if ".layers.1." not in name} == {"cpu"}
    assert opened.info.devices == ("cpu", "meta")
    assert [keys.device.type for keys in opened.engine.cache._keys] == ["cpu", "meta", "cpu", "cpu"]
    assert opened.network.route.blocks[1] == meta
    opened.close()


def test_prefix_reaches_every_device() -> None:
    """An adapter's keys and values are copied to the device of each layer's cache."""
    cache = KVCache(
        num_layers=2,
        num_slots=1,
        num_kv_heads=1,
        capacity=4,
        head_dim=2,
        dtype=torch.float32,
        device=CPU,
        layer_devices=[CPU, torch.device("meta")],
    )
    cache.write(0, torch.ones(2, 2, 1, 3, 2))
    assert cache._keys[0][0, :, :3].eq(1).all()
    assert cache._keys[1].is_meta
