"""The kernel library as a `KernelSet`: packed matrices, norms and decode attention."""

from __future__ import annotations

import torch
from glm_runtime_torch.backends import KernelSet, QuantizedEmbedding, QuantizedLinear
from torch import Tensor, nn

from ._attention import NativeDecodeAttention
from ._layers import NativeEmbedding, NativeLinear, NativeQuantizedLinear
from ._native import Native
from ._norm import NativeLayerNorm
from ._packed import DENSE_FORMATS


class NativeKernels(KernelSet):
    """Layers that compute with the library.

    Args:
        native: the library.
        dtype: of the rows that embeddings return.
        act_group: inputs that share a scale where activations are quantised; see
            `glm_backend_cpu._layers.choose_activation_group`.
    """

    replaces_borrowed = False  # packed matrices are another form: all weights would be there twice

    def __init__(self, native: Native, dtype: torch.dtype, act_group: int | None = None) -> None:
        self._native, self._dtype, self._act_group = native, dtype, act_group
        self.decode_attention = NativeDecodeAttention(native)

    def make_linear(self, layer: nn.Linear) -> NativeLinear | None:
        """Return a `NativeLinear`; ``None`` for a dtype that the library does not know."""
        if not _is_packable(layer.weight):
            return None
        return NativeLinear.from_dense(self._native, layer.weight.detach(), _get_bias(layer))

    def make_quantized_linear(self, layer: QuantizedLinear) -> NativeLinear | None:
        """Return a `NativeQuantizedLinear`; ``None`` where the integers are not in host memory."""
        if not _is_packable(layer.weight):
            return None
        return NativeQuantizedLinear.from_stored(
            self._native,
            layer.weight.detach(),
            layer.weight_scale.detach(),
            _get_bias(layer),
            layer.bits,
            layer.group_size,
            self._act_group,
        )

    def make_tied_table(
        self, table: nn.Embedding | QuantizedEmbedding, head: nn.Linear | QuantizedLinear
    ) -> tuple[nn.Module | None, nn.Module | None]:
        """Return an embedding and a head over one packed matrix.

        A head with a bias stays as it is: the packed matrix would hold the bias too, and a table
        has none.
        """
        if head.bias is not None:
            return None, None
        made = (
            self.make_quantized_linear(head) if isinstance(head, QuantizedLinear) else self.make_linear(head)
        )
        return (None, None) if made is None else (NativeEmbedding(made.matrix, self._dtype), made)

    def make_norm(self, norm: nn.LayerNorm | nn.RMSNorm) -> NativeLayerNorm | None:
        """Return a `NativeLayerNorm`; ``None`` for an RMSNorm and for norms without a bias."""
        if isinstance(norm, nn.RMSNorm) or len(norm.normalized_shape) != 1 or norm.bias is None:
            return None
        return NativeLayerNorm(self._native, norm)


def _get_bias(layer: nn.Linear | QuantizedLinear) -> Tensor | None:
    return None if layer.bias is None else layer.bias.detach()


def _is_packable(weight: Tensor) -> bool:
    return (weight.dtype in DENSE_FORMATS or weight.dtype == torch.int8) and weight.device.type == "cpu"
