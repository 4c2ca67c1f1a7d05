"""Every family's network names its parts, and everything that works on a network walks these names."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from glm_runtime_torch.network.places import Place, find_places
from glm_runtime_torch.quantization import QuantizedEmbedding, QuantizedLinear, quantize_in_place
from tiny_networks import CONFIGS, NAMES, family_named, logits_of, prompt_of, tiny_network
from torch import nn

from glm_core.records import QuantizationScheme

ATTENTION = ["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj"]
GATED = ["gate_proj", "up_proj", "down_proj"]
FUSED = ["self_attention.query_key_value", "self_attention.dense", "mlp.dense_h_to_4h", "mlp.dense_4h_to_h"]
# Of each family: where its blocks are, and the layers of its first and of its second block.
LINEARS = {
    "chatglm": (
        "transformer.layers",
        *[["attention.query_key_value", "attention.dense", "mlp.dense_h_to_4h", "mlp.dense_4h_to_h"]] * 2,
    ),
    "chatglm2": ("transformer.encoder.layers", FUSED, FUSED),
    "chatglm3": ("transformer.encoder.layers", FUSED, FUSED),
    "glm4-9b": ("transformer.encoder.layers", FUSED, FUSED),
    "glm": ("model.layers", *[[*ATTENTION, "mlp.gate_up_proj", "mlp.down_proj"]] * 2),
    "glm4": ("model.layers", *[[*ATTENTION, "mlp.gate_up_proj", "mlp.down_proj"]] * 2),
    "glm4_moe": (
        "model.layers",
        [*ATTENTION, *(f"mlp.{name}" for name in GATED)],
        [
            *ATTENTION,
            *(f"mlp.experts.{number}.{name}" for number in range(4) for name in GATED),
            *(f"mlp.shared_experts.{name}" for name in GATED),
        ],
    ),
}


def expected_linears(name: str) -> list[str]:
    """Full names of the linear layers in the blocks of a tiny network, experts too."""
    blocks, *layers = LINEARS[name]
    return [f"{blocks}.{layer}.{linear}" for layer, linears in enumerate(layers) for linear in linears]


@pytest.mark.parametrize("name", NAMES)
def test_quantised_are_exactly_these_layers(name: str) -> None:
    """The linear layers of the blocks become integers, experts included, and nothing else does."""
    network = tiny_network(name)
    assert [place.name for place in network.find_block_linears()] == expected_linears(name)
    quantize_in_place(network, QuantizationScheme(8))
    stored = {where for where, module in network.named_modules() if isinstance(module, QuantizedLinear)}
    assert stored == set(expected_linears(name))
    assert network.find_block_linears() == []


@pytest.mark.parametrize("name", NAMES)
def test_table_and_head_are_quantised_where_the_parts_say(name: str) -> None:
    """Tied, embedding and head become one table of integers; else the head alone does."""
    network = tiny_network(name)
    is_tied = network.is_tied
    quantize_in_place(network, QuantizationScheme(4), embeddings=QuantizationScheme(8))
    assert isinstance(network.head, QuantizedLinear)
    assert isinstance(network.embedding, QuantizedEmbedding) == is_tied
    assert network.is_tied == is_tied


@pytest.mark.parametrize("name", NAMES)
def test_parts_are_modules_of_the_declared_names(name: str) -> None:
    """Embedding, blocks, norm and head are what stands under their names, with the stated sizes."""
    network = tiny_network(name)
    names, sizes = network.part_names, network.dimensions
    for part, where in (
        (network.embedding, names.embedding),
        (network.blocks, names.blocks),
        (network.final_norm, names.final_norm),
        (network.head, names.head),
    ):
        assert part is network.get_submodule(where)
    weights: list[Any] = [network.embedding.weight, network.head.weight, network.final_norm.weight]
    assert [tuple(weight.shape) for weight in weights] == [
        *[(sizes.vocab_size, sizes.hidden_size)] * 2,
        (sizes.hidden_size,),
    ]
    assert len(network.blocks) == sizes.num_layers
    assert sizes == family_named(name).read_dimensions(family_named(name).read_config(CONFIGS[name]))


@pytest.mark.parametrize(("name", "is_tied"), [("chatglm", True), ("chatglm2", False), ("glm4", True)])
def test_a_network_says_whether_its_head_is_the_embedding(name: str, is_tied: bool) -> None:
    """Sharing weights is what counts; a head that gets weights of its own is tied no more."""
    network = tiny_network(name)
    assert network.is_tied == is_tied
    sizes = network.dimensions
    network.head_place.replace(nn.Linear(sizes.hidden_size, sizes.vocab_size))
    assert not network.is_tied


class Added(nn.Module):
    """A linear layer and a low-rank addition to what it computes."""

    def __init__(self, inner: nn.Linear, rank: int = 2) -> None:
        super().__init__()
        self.inner = inner
        self.down = nn.Linear(inner.in_features, rank, bias=False)
        self.up = nn.Linear(rank, inner.out_features, bias=False)
        nn.init.zeros_(self.up.weight)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map ``[..., in]`` to ``[..., out]``."""
        return self.inner(x) + self.up(self.down(x))


@pytest.mark.parametrize("name", NAMES)
def test_any_linear_layer_can_be_wrapped_by_name(name: str) -> None:
    """A wrapped layer takes part in the pass, and an addition of zero changes nothing."""
    network = tiny_network(name)
    before = logits_of(network, prompt_of(name))
    place = Place.from_name(network, expected_linears(name)[-1])
    place.replace(Added(place.module))
    assert torch.equal(logits_of(network, prompt_of(name)), before)
    nn.init.ones_(place.module.up.weight)
    assert not torch.equal(logits_of(network, prompt_of(name)), before)


def test_a_name_that_is_nowhere_is_an_error() -> None:
    """Asking for the place of a module that does not exist fails at once."""
    with pytest.raises(AttributeError):
        Place.from_name(tiny_network("chatglm"), "transformer.layers.0.mlp.gate_proj")


def test_a_module_in_two_places_is_found_in_both() -> None:
    """Replacing one of two places leaves the other, and what is put in is not walked."""
    shared = nn.Linear(2, 2)
    network = nn.ModuleDict({"first": shared, "second": shared})
    places = find_places(network, lambda module: isinstance(module, nn.Linear))
    assert [place.name for place in places] == ["first", "second"]
    places[0].replace(nn.Sequential(nn.Linear(2, 2)))
    assert network["second"] is shared
