"""The chosen kernels as a `KernelSet`."""

from __future__ import annotations

from typing import Protocol

import torch
from glm_runtime_torch.backends import (
    DecodeAttention,
    DecodeExecutor,
    EagerExecutor,
    KernelSet,
    KVCache,
    LanguageModel,
    QuantizedEmbedding,
    QuantizedLinear,
    takes_tensors,
)
from torch import Tensor, nn

from ._executor import CudaGraphs, RecordedExecutor, Recorder


class QuantizedLayers(Protocol):
    """Makes layers over stored integers with one kind of kernels; the runtime's layers where these have none.

    Shapes and dtypes as `glm_runtime_torch.backends.quantize_rows` returns them; ``bits`` is 8 or 4,
    ``group_size`` 0 for scales per row. Scales come in the dtype of the checkpoint.
    """

    def make_linear(
        self, stored: Tensor, scale: Tensor, bias: Tensor | None, bits: int, group_size: int
    ) -> nn.Module:
        """Return a layer that maps ``[..., in]`` to ``[..., out]`` in the dtype of its input."""
        ...

    def make_tied_table(
        self, stored: Tensor, scale: Tensor, bits: int, group_size: int
    ) -> tuple[nn.Module, nn.Module]:
        """Return the embedding (ids to rows) and the head over one table ``[vocab, in]``."""
        ...


class CudaKernels(KernelSet):
    """The kernels that were chosen.

    Args:
        description: which they are, and why.
        layers: that make layers over stored integers.
        attention: of decode steps.
        plain_dtype: of the plain weights and norms that Triton's layers replace too, so that a row's result
            does not depend on its batch in any layer; ``None`` = torch's layers stay.
        recorder: of decode steps; ``None`` = CUDA graphs where the device is a GPU.
    """

    def __init__(
        self,
        description: str,
        layers: QuantizedLayers,
        attention: DecodeAttention,
        *,
        plain_dtype: torch.dtype | None = None,
        recorder: Recorder | None = None,
    ) -> None:
        self.description = description
        self.decode_attention: DecodeAttention = attention
        self._layers = layers
        self._plain_dtype = plain_dtype
        self._recorder = recorder

    def make_linear(self, layer: nn.Linear) -> nn.Module | None:
        """Return Triton's layer, which shares the weights."""
        if layer.weight.dtype != self._plain_dtype:
            return None
        from ._layers import TritonLinear  # here, so that choosing other kernels needs no Triton

        return TritonLinear.from_dense(layer.weight, None if layer.bias is None else layer.bias.detach())

    def make_quantized_linear(self, layer: QuantizedLinear) -> nn.Module | None:
        """Return the chosen kernels' layer; ``None`` where they have none for this matrix."""
        bias = None if layer.bias is None else layer.bias.detach()
        made = self._layers.make_linear(layer.weight, layer.weight_scale, bias, layer.bits, layer.group_size)
        return None if isinstance(made, QuantizedLinear) else made

    def make_tied_table(
        self, table: nn.Embedding | QuantizedEmbedding, head: nn.Linear | QuantizedLinear
    ) -> tuple[nn.Module | None, nn.Module | None]:
        """Return embedding and head; a table of integers and the head over it stay one matrix."""
        if not isinstance(head, QuantizedLinear) or head.bias is not None:
            return super().make_tied_table(table, head)
        return self._layers.make_tied_table(head.weight, head.weight_scale, head.bits, head.group_size)

    def make_norm(self, norm: nn.LayerNorm | nn.RMSNorm) -> nn.Module | None:
        """Return Triton's norm, which shares the weights."""
        if isinstance(norm, nn.RMSNorm) or len(norm.normalized_shape) != 1 or norm.bias is None:
            return None
        if norm.weight.dtype != self._plain_dtype:
            return None
        from ._norm import TritonLayerNorm  # here, so that choosing other kernels needs no Triton

        return TritonLayerNorm(norm)

    def make_executor(self, network: LanguageModel, cache: KVCache, device: torch.device) -> DecodeExecutor:
        """Return recorded steps on one GPU; a step that goes over several is not one recording."""
        recorder = self._recorder
        if recorder is None and device.type == "cuda":
            recorder = CudaGraphs(device)
        if recorder is None or network.route is not None or not takes_tensors(self.decode_attention):
            return EagerExecutor(network, cache, device)
        return RecordedExecutor(network, cache, device, recorder)

    def count_second_form_bytes(self, network: LanguageModel) -> int:
        """Return the bytes of int4 weights, which kernels want in another order; int8 is shared."""
        return sum(
            layer.weight.nbytes
            for layer in network.modules()
            if isinstance(layer, QuantizedLinear) and layer.bits == 4
        )
