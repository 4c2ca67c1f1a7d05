"""Putting Triton's layers into a whole network, with the interpreter in a GPU's place."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from glm_backend_cuda._choice import choose_kernels
from glm_backend_cuda._kernel_set import CudaKernels
from glm_backend_cuda._torch_layers import Products, TorchLayers
from glm_runtime_torch.architectures.chatglm import ChatGLM, ChatGLMConfig
from glm_runtime_torch.backends import TorchDecodeAttention, install_kernels
from glm_runtime_torch.network.kv_cache import KVCache
from glm_runtime_torch.quantization import QuantizedEmbedding, QuantizedLinear, quantize_in_place
from torch import Tensor, nn

from glm_core.records import QuantizationScheme

pytest.importorskip("triton", reason="Triton is not installed")

from glm_backend_cuda._layers import TritonEmbedding, TritonLinear
from glm_backend_cuda._norm import TritonLayerNorm

CPU = torch.device("cpu")
CONFIG = ChatGLMConfig(vocab_size=90, hidden_size=64, num_layers=2, num_heads=2, inner_hidden_size=128)


def network_of(scheme: QuantizationScheme | None, table_bits: int = 8) -> ChatGLM:
    """A random network, quantised or not; the same one every time."""
    torch.manual_seed(5)
    network = ChatGLM(CONFIG).eval().requires_grad_(False)
    if scheme is not None:
        quantize_in_place(network, scheme, embeddings=QuantizationScheme(table_bits))
    return network


def decoded(network: ChatGLM, rows: list[int], attention: Any = None) -> Tensor:
    """Logits of one decode step over a cache of random keys and values."""
    generator = torch.Generator().manual_seed(7)
    cache = KVCache(
        num_layers=2,
        num_slots=3,
        num_kv_heads=2,
        capacity=40,
        head_dim=32,
        dtype=torch.float32,
        device=CPU,
        attention=attention,
    )
    for part in (*cache._keys, *cache._values):
        part.normal_(generator=generator)
    ids, lengths = torch.tensor([[3], [70], [41]]), torch.tensor([9, 40, 1])
    positions = torch.tensor([[[5], [4]], [[30], [9]], [[0], [1]]])
    slots = torch.tensor([2, 0, 1])
    numbers = (
        (slots[rows], lengths[rows])
        if attention is not None
        else (
            slots[rows].tolist(),
            lengths[rows].tolist(),
        )
    )
    return network.decode(ids[rows], positions[rows], cache.select_decode_rows(*numbers))[:, 0]


@torch.no_grad()
@pytest.mark.parametrize(
    "scheme", [None, QuantizationScheme(8), QuantizationScheme(4), QuantizationScheme(4, 32)], ids=str
)
def test_a_network_decodes_as_before_and_rows_do_not_depend_on_their_batch(
    scheme: QuantizationScheme | None,
) -> None:
    """Layers, norms and attention are Triton's; logits are those of PyTorch, bits those of one row."""
    wanted = decoded(network_of(scheme), [0, 1, 2])
    network = network_of(scheme)
    kernels = choose_kernels("triton", [CPU], torch.float32)
    install_kernels(network, kernels)
    kinds = [type(module) for module in network.modules()]
    assert kinds.count(TritonLinear) == 4 * 2 + 1
    assert kinds.count(TritonLayerNorm) == 2 * 2 + 1
    assert not {nn.Linear, QuantizedLinear, nn.LayerNorm} & set(kinds)
    found = decoded(network, [0, 1, 2], kernels.decode_attention)
    assert torch.allclose(found, wanted, atol=1e-4, rtol=1e-4)
    for row in range(3):
        assert torch.equal(decoded(network, [row], kernels.decode_attention)[0], found[row])
    assert torch.equal(decoded(network, [2, 0], kernels.decode_attention), found[[2, 0]])


@pytest.mark.parametrize("bits", [8, 4])
def test_a_table_and_its_head_stay_one_matrix(bits: int) -> None:
    """Whatever form the kernels want."""
    network = network_of(QuantizationScheme(4), bits)
    install_kernels(network, choose_kernels("triton", [CPU], torch.float32))
    table, head = network.transformer.word_embeddings, network.lm_head
    assert isinstance(table, TritonEmbedding)
    assert table.matrix is head


def test_plain_tables_are_shared_too() -> None:
    """The head's weights stay the embedding's."""
    network = network_of(None)
    install_kernels(network, choose_kernels("triton", [CPU], torch.float32))
    assert network.lm_head.weight is network.transformer.word_embeddings.weight


def test_weights_in_training_and_of_other_dtypes_stay() -> None:
    """A layer that somebody trains keeps being torch's."""
    network = network_of(None)
    trained = network.transformer.layers[0].mlp.dense_h_to_4h.requires_grad_(True)
    other = network.transformer.layers[1].attention.dense.half()
    install_kernels(network, choose_kernels("triton", [CPU], torch.float32))
    assert network.transformer.layers[0].mlp.dense_h_to_4h is trained
    assert network.transformer.layers[1].attention.dense is other


def test_layers_without_a_product_stay_the_runtime_s() -> None:
    """PyTorch's kernels change nothing where torch has none for the matrix."""
    network = network_of(QuantizationScheme(8))
    before = list(network.modules())
    layers = TorchLayers(torch.float32, Products())
    install_kernels(network, CudaKernels("kernels: torch", layers, TorchDecodeAttention()))
    blocks = [module for module in network.modules() if type(module) is QuantizedLinear]
    assert sum(module in before for module in blocks) == 4 * 2
    assert isinstance(network.transformer.word_embeddings, QuantizedEmbedding)
    assert network.lm_head.weight is network.transformer.word_embeddings.weight
