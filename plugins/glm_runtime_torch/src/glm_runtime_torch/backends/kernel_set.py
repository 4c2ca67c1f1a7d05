"""`KernelSet`: what a backend brings for its device.

Axes: B batch · T new tokens · N query heads · G key/value heads · H head dim
"""

from __future__ import annotations

import torch
from torch import nn

from ..generation.executor import DecodeExecutor, EagerExecutor
from ..network.attention import DecodeAttention
from ..network.kv_cache import KVCache
from ..network.language_model import LanguageModel
from ..quantization.layers import QuantizedEmbedding, QuantizedLinear


class KernelSet:
    """The kernels of one backend for one model; every part may be left out.

    A backend derives from it and overrides what it has. What it leaves out, or answers with ``None``, stays
    the runtime's reference in plain PyTorch, which is right on every device. A new kind of kernel becomes a
    method with the reference as its default, so a set that is written today stays valid.

    A layer that is made gets its weights from the layer in whose place it goes, on the device where they
    will be used. It holds everything that it needs: the old layer is dropped at once, so that memory holds
    two forms of one matrix at most. A layer over a linear one may have further methods that the networks
    then call, see `glm_runtime_torch.network.fused`; a wrapper around it that has not is right as well.

    Attributes:
        description: a sentence for people, said when a model is placed: which kernels, and why.
        decode_attention: one decode step's attention over the KV cache; ``None`` = the reference's.
        replaces_borrowed: whether the layers may be put into a copy of a model that somebody else holds.
            A set whose layers hold all weights in another form says no: the model would be there twice.
    """

    description: str = ""
    decode_attention: DecodeAttention | None = None
    replaces_borrowed: bool = True

    def make_linear(self, layer: nn.Linear) -> nn.Module | None:
        """Return a layer over the plain weights of ``layer`` that maps ``[..., in]`` to ``[..., out]``."""
        return None

    def make_quantized_linear(self, layer: QuantizedLinear) -> nn.Module | None:
        """Return a layer over the stored integers of ``layer`` that maps ``[..., in]`` to ``[..., out]``.

        The result has the dtype of the input. See `QuantizedLinear` for the form of the integers.
        """
        return None

    def make_embedding(self, table: nn.Embedding | QuantizedEmbedding) -> nn.Module | None:
        """Return a table of its own, with no head over it: ids ``[...]`` to rows ``[..., D]``."""
        return None

    def make_tied_table(
        self, table: nn.Embedding | QuantizedEmbedding, head: nn.Linear | QuantizedLinear
    ) -> tuple[nn.Module | None, nn.Module | None]:
        """Return an embedding and a head over one table; ``None`` leaves what is there.

        Without another answer the embedding stays, and a head is made that should share its memory.
        """
        return None, self.make_any_linear(head)

    def make_norm(self, norm: nn.LayerNorm | nn.RMSNorm) -> nn.Module | None:
        """Return a norm over the weights of ``norm``, ``[..., D]`` to ``[..., D]``."""
        return None

    def make_executor(self, network: LanguageModel, cache: KVCache, device: torch.device) -> DecodeExecutor:
        """Return what computes whole decode steps.

        Called once, when the layers are in: the place to plan a step from the network's parts and
        `LanguageModel.dimensions`, to record it, or to hand all of it to one call of a library. A plan is of
        the layers as they are: a step with adapters that change what layers compute for some rows
        (``step.adapters``), or of a network with a route over several devices, is best left to
        `EagerExecutor`, which calls the network.

        Args:
            network: in evaluation mode, with these kernels.
            cache: of the same sizes.
            device: where the network takes its inputs.
        """
        return EagerExecutor(network, cache, device)

    def count_second_form_bytes(self, network: LanguageModel) -> int:
        """Return the bytes of weights that the layers would hold once more, in a form of their own."""
        return 0

    def make_any_linear(self, layer: nn.Linear | QuantizedLinear) -> nn.Module | None:
        """Return what `make_linear` or `make_quantized_linear` makes of a layer."""
        if isinstance(layer, QuantizedLinear):
            return self.make_quantized_linear(layer)
        return self.make_linear(layer)
