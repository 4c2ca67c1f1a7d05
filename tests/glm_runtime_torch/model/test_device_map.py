"""Dividing a network: the automatic split and maps that users write, on devices that need not exist."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from glm_runtime_torch.architectures.chatglm import ChatGLM, ChatGLMConfig
from glm_runtime_torch.architectures.chatglm2 import ChatGLM2, ChatGLM2Config
from glm_runtime_torch.model.device_map import (
    DeviceMap,
    NetworkUnit,
    Parts,
    find_device_map,
    find_parts,
    make_single_device_map,
    resolve_device_map,
    split,
)
from glm_runtime_torch.network.empty_weights import build_without_weights
from glm_runtime_torch.network.parameters import list_unique_parameters
from hypothesis import assume, given, settings, strategies as st

from glm_core import ConfigError, DeviceError, GlmError, OutOfMemoryError

TABLE, NORM, HEAD = "transformer.word_embeddings", "transformer.final_layernorm", "lm_head"


def cuda(index: int) -> torch.device:
    """A device by its number; nothing is put there."""
    return torch.device("cuda", index)


def v1_parts(**config: Any) -> Parts:
    """The units of ChatGLM-6B, without weights."""
    with build_without_weights():
        network = ChatGLM(ChatGLMConfig(**config))
    return find_parts(network, {name: 2 * value.numel() for name, value in list_unique_parameters(network)})


V1 = v1_parts()


def made_up(blocks: list[int], table: int = 3) -> Parts:
    """Units of given sizes, with a tied table."""
    layers = [NetworkUnit(f"transformer.layers.{index}", size, index) for index, size in enumerate(blocks)]
    return Parts(
        (NetworkUnit(TABLE, table), *layers, NetworkUnit(NORM, 1), NetworkUnit(HEAD, 0)), ((TABLE, HEAD),)
    )


def loads(parts: Parts, places: DeviceMap, layer_bytes: int) -> dict[torch.device, int]:
    """Bytes on each device."""
    used: dict[torch.device, int] = {}
    for unit in parts.units:
        size = unit.weight_bytes + (layer_bytes if unit.layer is not None else 0)
        device = places.places[unit.name]
        used[device] = used.get(device, 0) + size
    return used


def test_units_have_the_original_names_and_all_weights() -> None:
    """The units of ChatGLM-6B are its 28 layers, table, norm and head, and hold every byte once."""
    assert V1.names == (TABLE, *(f"transformer.layers.{index}" for index in range(28)), NORM, HEAD)
    assert sum(unit.weight_bytes for unit in V1.units) == 2 * 6173286400
    assert V1.units[-1].weight_bytes == 0  # the head is the table
    assert V1.together == ((TABLE, HEAD),)


def test_newer_families_have_units_too() -> None:
    """ChatGLM2's head is not tied, and its names are its own."""
    config = ChatGLM2Config(num_layers=2, hidden_size=64, num_heads=4, num_kv_heads=2, vocab_size=90)
    with build_without_weights():
        parts = find_parts(ChatGLM2(config))
    assert parts.names[0] == "transformer.embedding.word_embeddings"
    assert parts.names[1] == "transformer.encoder.layers.0"
    assert parts.names[-1] == "transformer.output_layer"
    assert parts.together == ()
    assert parts.units[-1].weight_bytes == 4 * 90 * 64


def test_two_equal_cards_share_chatglm_6b_evenly() -> None:
    """The table counts: the first of two equal cards gets fewer blocks, and they differ by less than one."""
    places = split(V1, {cuda(0): 16 * 10**9, cuda(1): 16 * 10**9}, layer_bytes=33_554_432)
    used = loads(V1, places, 33_554_432)
    assert set(used) == {cuda(0), cuda(1)}
    block = V1.blocks[0].weight_bytes + 33_554_432
    assert abs(used[cuda(0)] - used[cuda(1)]) <= block
    counts = [places.list_block_devices(V1).count(cuda(index)) for index in (0, 1)]
    assert counts[0] < counts[1]
    assert places.places[TABLE] == places.places[HEAD] == places.places[NORM] == cuda(0)


SIZES = st.lists(st.integers(1, 40), min_size=1, max_size=9)
FREE = st.lists(st.integers(0, 150), min_size=1, max_size=8)


def best_share(blocks: list[int], base: int, home: int, free: list[int]) -> float | None:
    """The smallest possible share of the fullest device, by trying every division."""
    best = None
    for cuts in itertools.combinations_with_replacement(range(len(blocks) + 1), len(free) - 1):
        borders = (0, *cuts, len(blocks))
        used = [sum(blocks[start:stop]) for start, stop in itertools.pairwise(borders)]
        used[home] += base
        if all(one <= size for one, size in zip(used, free, strict=True)):
            share = max((one / size for one, size in zip(used, free, strict=True) if one), default=0.0)
            best = share if best is None else min(best, share)
    return best


@settings(max_examples=150, deadline=None, derandomize=True)
@given(blocks=SIZES, free=FREE, layer_bytes=st.integers(0, 5))
def test_split_is_complete_ordered_fits_and_is_the_best(
    blocks: list[int], free: list[int], layer_bytes: int
) -> None:
    """On 1 to 8 unequal devices: every unit once, blocks in order, nothing too full, no division better."""
    assume(len(free) < 6 or len(blocks) < 6)  # trying every division takes long
    parts = made_up(blocks)
    devices = {cuda(index): size for index, size in enumerate(free)}
    whole = [size + layer_bytes for size in blocks]
    shares = [best_share(whole, 4, home, free) for home in range(len(free))]
    wanted = next((share for share in shares if share is not None), None)
    if wanted is None:
        with pytest.raises(OutOfMemoryError, match=r"needs .* GB, and no division of its \d+ blocks fits"):
            split(parts, devices, layer_bytes)
        return
    places = split(parts, devices, layer_bytes)
    assert tuple(places.places) == parts.names
    order = [device.index for device in places.list_block_devices(parts)]
    assert order == sorted(order)
    used = loads(parts, places, layer_bytes)
    assert all(size <= devices[device] for device, size in used.items())
    assert max(size / devices[device] for device, size in used.items() if size) == pytest.approx(wanted)


def test_table_goes_to_the_first_card_with_room() -> None:
    """A first card too small for the table still takes blocks; the table stands on the next."""
    places = split(made_up([5, 5, 5], table=20), {cuda(0): 12, cuda(1): 40})
    assert places.places[TABLE] == places.places[HEAD] == cuda(1)
    assert places.places["transformer.layers.0"] == cuda(0)


def test_written_map_in_the_original_names() -> None:
    """Numbers, names and devices are understood; a prefix stands for all below it, and the longest wins."""
    devices = [cuda(0), cuda(1)]
    each = {TABLE: 0, NORM: "cuda:0", HEAD: torch.device("cuda:0")}
    each |= {f"transformer.layers.{index}": index // 14 for index in range(28)}
    places = resolve_device_map(V1, each, devices)
    assert [device.index for device in places.list_block_devices(V1)] == [0] * 14 + [1] * 14
    short = resolve_device_map(
        V1, {"": 1, "transformer.layers": "0", "transformer.layers.27": cuda(1)}, devices
    )
    assert short.places[TABLE] == short.places[HEAD] == cuda(1)
    assert [device.index for device in short.list_block_devices(V1)] == [0] * 27 + [1]
    assert make_single_device_map(V1, cuda(1)).devices == (cuda(1),)


@pytest.mark.parametrize(
    ("written", "error", "message"),
    [
        ({"": 0, "transformer.layer.3": 1}, ConfigError, "has not; did you mean 'transformer.layers.3'"),
        (
            {"": 0, "quux": 1},
            ConfigError,
            "names 'quux', which the model has not; there are: transformer.word",
        ),
        (
            {"": 0, "transformer.layers.3.mlp": 1},
            ConfigError,
            "'transformer.layers.3' stands on one device as a whole",
        ),
        ({"transformer": 0}, ConfigError, "leaves out lm_head; give each a device"),
        ({"lm_head": 0}, ConfigError, r"leaves out transformer\.word_embeddings, .* and 26 more"),
        (
            {"": 2},
            DeviceError,
            "puts 'everything' on cuda:2, which was not asked for; there are: cuda:0, cuda:1",
        ),
        ({"": "cpu"}, DeviceError, "on cpu, which was not asked for"),
        ({"": "card 1"}, ConfigError, "on 'card 1'; expected a number, a name such as 'cuda:1'"),
        ({"": None}, ConfigError, "on None; expected a number"),
        ({"": True}, ConfigError, "on True; expected a number"),
        (
            {"": 0, "lm_head": 1},
            DeviceError,
            "transformer.word_embeddings on cuda:0 and lm_head on cuda:1, but they share one table",
        ),
    ],
)
def test_wrong_maps_are_refused(written: dict[str, Any], error: type[GlmError], message: str) -> None:
    """Each mistake in a map is one clear sentence."""
    with pytest.raises(error, match=message):
        resolve_device_map(V1, written, [cuda(0), cuda(1)])


@pytest.mark.parametrize("kind", ["cpu", "mps", "cuda"])
def test_devices_without_a_number_are_the_first_of_their_type(kind: str) -> None:
    """However the user writes it, and whether torch's own name for the device has a number or not."""
    for device in (torch.device(kind), torch.device(kind, 0)):
        for value in (0, "0", kind, f"{kind}:0", torch.device(kind)):
            assert resolve_device_map(V1, {"": value}, [device], kind).devices == (device,)


def test_parameters_find_their_device() -> None:
    """A parameter stands where its unit does; what is in no unit goes with the first."""
    places = resolve_device_map(V1, {"": 0, "transformer.layers.1": 1}, [cuda(0), cuda(1)])
    assert places.find_device("transformer.layers.1.mlp.dense_h_to_4h.weight") == cuda(1)
    assert places.find_device("transformer.layers.10.input_layernorm.bias") == cuda(0)
    assert places.find_device("transformer.prefix_encoder.embedding.weight") == cuda(0)


def test_network_says_where_it_stands() -> None:
    """The map of a network in memory is read off its weights."""
    config = ChatGLMConfig(vocab_size=90, hidden_size=32, num_layers=2, num_heads=4, inner_hidden_size=64)
    network = ChatGLM(config)
    network.transformer.layers[1].to("meta")
    places = find_device_map(network)
    assert [device.type for device in places.list_block_devices(find_parts(network))] == ["cpu", "meta"]


def test_moving_keeps_shared_weights_shared() -> None:
    """A map moves every unit, and the head is still the table."""
    config = ChatGLMConfig(vocab_size=90, hidden_size=32, num_layers=2, num_heads=4, inner_hidden_size=64)
    network = ChatGLM(config)
    meta = torch.device("meta")
    resolve_device_map(
        find_parts(network), {"": "cpu", "transformer.layers.1": meta}, [torch.device("cpu"), meta]
    ).move(network)
    assert [device.type for device in find_device_map(network).list_block_devices(find_parts(network))] == [
        "cpu",
        "meta",
    ]
    assert network.lm_head.weight is network.transformer.word_embeddings.weight
