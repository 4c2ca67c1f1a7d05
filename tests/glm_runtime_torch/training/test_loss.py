"""Loss and gradients of a trained prefix against numbers of the original implementation."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from glm_runtime_torch.adapters.loading import load_prefix_encoder
from glm_runtime_torch.families.registry import FAMILIES
from glm_runtime_torch.model.directory import open_directory
from glm_runtime_torch.network.decoder import IGNORED_LABEL
from glm_runtime_torch.network.prefix_encoder import PrefixEncoder
from glm_runtime_torch.quantization import quantize_in_place
from glm_runtime_torch.quantization.layers import QuantizedLinear
from glm_runtime_torch.training import compute_token_losses, use_gradient_checkpointing
from goldens import DATA, Case, cases, network2_of, network_of
from tiny_native import native_checkpoint
from torch import Tensor, nn

from glm_core.records import ModelSource, QuantizationScheme

CPU = torch.device("cpu")
PROJECTIONS = [
    case for case in cases("chatglm-6b") if case.kind == "train" and "ptuning_dir" in case.settings
]
CHATGLM2 = [case for case in cases("chatglm2-6b") if case.kind == "train" and "ptuning_dir" in case.settings]


def encoder_of(case: Case, config: Any, family: str = "chatglm") -> PrefixEncoder:
    known = next(entry for entry in FAMILIES if entry.name == family)
    stored = load_prefix_encoder(DATA / case.folder / case.settings["ptuning_dir"], known, config)
    return stored.requires_grad_(True)


def gradients(
    network: Any, case: Case, encoder: PrefixEncoder, **settings: Any
) -> tuple[Tensor, dict[str, Tensor]]:
    """The loss of a case's batch and its gradient for every weight of the prefix encoder."""
    encoder.zero_grad()
    loss = compute_token_losses(network, case["input_ids"], case["labels"], CPU, encoder, **settings).mean()
    loss.backward()
    found = {name: value.grad for name, value in encoder.named_parameters() if value.grad is not None}
    return loss.detach(), {name: value.clone() for name, value in found.items()}


def check(case: Case, loss: Tensor, found: dict[str, Tensor]) -> None:
    """Loss and gradients equal the fixture's, relative 1e-3."""
    torch.testing.assert_close(loss.view(1), case["loss"], rtol=1e-5, atol=1e-5)
    stored = "transformer.prefix_encoder."
    assert found.keys() == {name.removeprefix(stored) for name in case.settings["grad_norms"]}
    for name, value in found.items():
        expected = case[f"grad.{stored}{name}"]
        torch.testing.assert_close(value, expected, rtol=1e-3, atol=1e-3 * expected.abs().max().item())
        assert value.norm().item() == pytest.approx(case.settings["grad_norms"][stored + name], rel=1e-3)


@pytest.mark.parametrize("case", PROJECTIONS, ids=lambda case: case.name)
def test_loss_and_gradients_equal_the_original(case: Case) -> None:
    """With and without projection, one step's loss and gradients are the original's."""
    assert len(PROJECTIONS) == 2
    network = network_of(case)
    check(case, *gradients(network, case, encoder_of(case, network.config)))


@pytest.mark.parametrize("case", CHATGLM2, ids=lambda case: case.name)
def test_chatglm2_equals_the_original_too(case: Case) -> None:
    """The objective knows no family: ChatGLM2's numbers come out of the same function."""
    assert CHATGLM2
    network = network2_of(case)
    check(case, *gradients(network, case, encoder_of(case, network.config, "chatglm2")))


@pytest.mark.parametrize("case", PROJECTIONS, ids=lambda case: case.name)
def test_gradient_checkpointing_changes_no_bit(case: Case) -> None:
    """Blocks that are computed twice drop the same elements, and give the same loss and gradients."""
    network = copy.deepcopy(network_of(case))
    settings = {"dropout": 0.1, "seed": 5}
    loss, found = gradients(network, case, encoder_of(case, network.config), **settings)
    use_gradient_checkpointing(network)
    again, computed_twice = gradients(network, case, encoder_of(case, network.config), **settings)
    assert torch.equal(loss, again)
    assert all(torch.equal(found[name], computed_twice[name]) for name in found)


def test_dropout_follows_from_its_seed_and_differs_between_rows() -> None:
    """The same seed drops the same; another seed, or another row of the batch, something else."""
    case = PROJECTIONS[0]
    network = network_of(case)
    encoder = encoder_of(case, network.config)
    row = (case["input_ids"][:1].repeat(2, 1), case["labels"][:1].repeat(2, 1))
    first = compute_token_losses(network, *row, CPU, encoder, dropout=0.5, seed=1)
    assert torch.equal(first, compute_token_losses(network, *row, CPU, encoder, dropout=0.5, seed=1))
    assert not torch.equal(first, compute_token_losses(network, *row, CPU, encoder, dropout=0.5, seed=2))
    assert not torch.equal(*first.view(2, -1))


@pytest.mark.parametrize("scheme", ["int8", "int4", "int4-g32"])
def test_a_step_on_a_quantised_base_is_that_on_the_dequantised_one(scheme: str) -> None:
    """Gradients through stored integers equal those through the matrices that they stand for."""
    case = PROJECTIONS[0]
    quantised = copy.deepcopy(network_of(case))
    quantize_in_place(quantised, QuantizationScheme.parse(scheme))
    plain = copy.deepcopy(network_of(case))
    replaced = 0
    for name, module in quantised.named_modules():
        if isinstance(module, QuantizedLinear):
            weight = module(torch.eye(module.in_features)) - module.bias
            linear = plain.get_submodule(name)
            assert isinstance(linear, nn.Linear)
            linear.weight.data = weight.T.contiguous()
            replaced += 1
    assert replaced == 12
    loss, found = gradients(quantised, case, encoder_of(case, plain.config))
    expected_loss, expected = gradients(plain, case, encoder_of(case, plain.config))
    torch.testing.assert_close(loss, expected_loss, rtol=1e-5, atol=1e-6)
    for name, value in found.items():
        torch.testing.assert_close(
            value, expected[name], rtol=1e-3, atol=1e-4 * expected[name].abs().max().item()
        )


def test_gradients_keep_no_dequantised_matrix() -> None:
    """What a quantised layer keeps for the backward pass are its integers, and none larger."""
    layer = QuantizedLinear.from_stored(
        torch.ones(64, 32, dtype=torch.int8), torch.ones(64), torch.zeros(64), bits=4
    )
    kept: list[Tensor] = []

    def pack(tensor: Tensor) -> Tensor:
        kept.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        layer(torch.ones(3, 64, requires_grad=True)).sum().backward()
    assert kept
    assert all(tensor.nbytes <= layer.weight.nbytes for tensor in kept)


def test_a_family_of_transformers_is_trained_alike(tmp_path: Path) -> None:
    """A network that transformers defines gives the prefix gradients too, also with checkpointing."""
    directory = native_checkpoint(tmp_path / "native")
    family = next(entry for entry in FAMILIES if entry.name == "glm4")
    model = open_directory(ModelSource("native", directory), directory, family, torch.float32)
    model.materialize(CPU)
    encoder = model.family.build_prefix_encoder(model.config, 3, False)
    ids = torch.tensor([[5, 6, 7, 8, 9, 10]])
    labels = torch.where(torch.arange(6) < 3, IGNORED_LABEL, ids)
    losses = compute_token_losses(model.network, ids, labels, CPU, encoder)
    assert losses.shape == (3,)
    (plain,) = torch.autograd.grad(losses.sum(), [encoder.embedding.weight])
    use_gradient_checkpointing(model.network)
    losses = compute_token_losses(model.network, ids, labels, CPU, encoder)
    (twice,) = torch.autograd.grad(losses.sum(), [encoder.embedding.weight])
    torch.testing.assert_close(plain, twice)
    assert plain.abs().max() > 0


def test_padding_counts_only_if_that_is_asked_for() -> None:
    """Rows padded on the right give the losses that they give alone."""
    case = PROJECTIONS[0]
    network = network_of(case)
    encoder = encoder_of(case, network.config)
    together = compute_token_losses(network, case["input_ids"], case["labels"], CPU, encoder)
    alone = []
    for ids, labels in zip(case["input_ids"], case["labels"], strict=True):
        real = int((labels != IGNORED_LABEL).nonzero().max()) + 1
        alone.append(compute_token_losses(network, ids[None, :real], labels[None, :real], CPU, encoder))
    torch.testing.assert_close(together, torch.cat(alone), rtol=1e-4, atol=1e-5)
